"""The recipes of the cookbook, as their readers run them: against the demo, in bubblewrap.

Those that `test_examples` runs are not repeated here. The ones in JavaScript run in
`make test-clients`, except `resume.mjs`, which needs no package.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.e2e.deployments import Deployment, embedded, free_port
from tests.examples import COUNT, COUNTED, FOLDER, PYTHON, SHELL, SLOWLY, run_example
from tests.fakes.cutting_proxy import cutting_proxy
from tests.fakes.mcp_server import wait_for
from tests.parts import need, node_program

pytestmark = [pytest.mark.timeout(240), pytest.mark.bwrap]

SHOP_KEY = "shop-canary-31c7"
CUTS = (1500, 2222, 3001)
"""After so many bytes of the answer a connection is cut: within an event, or between two."""


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """The demo with the two agents of the cookbook, and the MCP server of one of them."""
    need("bwrap")
    need("redis")
    need("sdk")
    agents, port = tmp_path_factory.mktemp("agents"), free_port()
    for profile in (FOLDER / "agents").iterdir():
        text = profile.read_text().replace("127.0.0.1:9000", f"127.0.0.1:{port}")
        (agents / profile.name).write_text(text)
    settings = {
        "AGCLUSTER_DEMO": "true",
        "AGCLUSTER_AGENTS_DIR": str(agents),
        "AGCLUSTER_MCP_SECRETS": json.dumps({"SHOP_KEY": SHOP_KEY}),
    }
    with _shop(port), embedded("bubblewrap", **settings) as running:
        yield running


@contextlib.contextmanager
def _shop(port: int) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, str(FOLDER / "mcp_server.py"), str(port)],
        env={**os.environ, "SHOP_KEY": SHOP_KEY},
    )
    try:
        wait_for(port, process)
        yield
    finally:
        process.terminate()
        process.wait(10)


def test_an_answer_word_by_word(kitchen: Deployment) -> None:
    for command, name in ((PYTHON, "stream.py"), (SHELL, "stream.sh")):
        assert run_example(kitchen, command, name, COUNT) == COUNTED


@pytest.mark.parametrize("name", ["resume.py", "resume.mjs", "resume.sh"])
def test_a_cut_connection_loses_no_word_and_doubles_none(kitchen: Deployment, name: str) -> None:
    node: Sequence[str] = ()
    if name.endswith(".mjs"):
        need("node")
        node = (str(node_program()),)
    command = {"py": PYTHON, "sh": SHELL, "mjs": node}[name.rpartition(".")[2]]
    port = int(kitchen.base_url.rpartition(":")[2])
    with cutting_proxy("127.0.0.1", port, after_bytes=CUTS) as proxy:
        cut = dataclasses.replace(kitchen, base_url=f"http://127.0.0.1:{proxy.port}")
        assert run_example(cut, command, name, COUNT) == COUNTED
    assert proxy.cuts == len(CUTS)


def test_conversations_know_nothing_of_each_other(kitchen: Deployment) -> None:
    for command, name in ((PYTHON, "two_conversations.py"), (SHELL, "two_conversations.sh")):
        garden, _, office = run_example(kitchen, command, name).partition("office: ")
        assert "- the roses need water" in garden
        assert "meeting" not in garden
        assert "- the meeting is on Friday" in office
        assert "roses" not in office


def test_a_pdf_is_there_for_the_agent(kitchen: Deployment, tmp_path: Path) -> None:
    pdf = tmp_path / "contract.pdf"
    pdf.write_bytes(b"%PDF-1.4\n1 0 obj << /Type /Catalog >> endobj\ntrailer << /Root 1 0 R >>\n")
    for command, name in ((PYTHON, "attach_pdf.py"), (SHELL, "attach_pdf.sh")):
        told = run_example(kitchen, command, name, str(pdf), "tool bash head -1 uploads/*.pdf")
        assert told == "tool said: %PDF-1.4\n"


def test_an_answer_is_stopped(kitchen: Deployment) -> None:
    for command, name, asked in (
        (PYTHON, "cancel.py", ("20", SLOWLY)),
        (SHELL, "cancel.sh", (SLOWLY,)),
    ):
        told = run_example(kitchen, command, name, *asked)
        assert "turn_cancelled" in told
        assert "x0 " in told
        assert "499 " not in told


def test_an_answer_goes_on_after_a_hang_up(kitchen: Deployment) -> None:
    for command, name in ((PYTHON, "hang_up.py"), (SHELL, "hang_up.sh")):
        assert run_example(kitchen, command, name, COUNT) == f"hung up\n{COUNTED}"


def test_an_agent_of_ones_own(kitchen: Deployment) -> None:
    told = run_example(kitchen, PYTHON, "own_agent.py", "proofreader", "system")
    assert told.startswith("proofreader: Corrects a text and says what it changed.\n")
    assert "You correct the text that you are sent" in told


def test_an_agent_with_an_mcp_server_of_ones_own(kitchen: Deployment) -> None:
    call = 'tool mcp__shop__order_status {"number": 17}'
    told = run_example(kitchen, PYTHON, "own_agent.py", "shop", call)
    assert told.startswith("shop: Knows the orders of our shop.\n")
    assert "order 17 was sent on Monday" in told
