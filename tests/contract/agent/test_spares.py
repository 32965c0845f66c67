"""A spare's first turn is that of an agent that was started for it, seen from the model.

This is what holds the undocumented request of `agent.cli.spare` to the pinned CLI.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from infra.wire.link import AgentSettings, Prepare, Prepared, Refused
from infra.wire.turns import HistoryMessage, TextBlock
from tests.contract.agent.test_real_agent import TOOLS
from tests.fakes.contained_agent import scripted_model
from tests.fakes.link_client import connected, start_turn, text_of
from tests.fakes.local_agent import LocalAgent, local_agent
from tests.parts import need

pytestmark = [pytest.mark.sdk, pytest.mark.timeout(120)]

SONNET, OPUS = "claude-sonnet-4-5-20250929", "claude-opus-4-5-20251101"
SPARE = AgentSettings(model=SONNET, tools=TOOLS, max_turns=20)
LOOKS_AROUND = "tool bash pwd; env | cut -d= -f1 | sort; echo $NO_PROXY $ANTHROPIC_BASE_URL"
SAID = (
    HistoryMessage(role="user", content=(TextBlock(text="hello"),)),
    HistoryMessage(role="assistant", content=(TextBlock(text="good day"),)),
)
ONLY_ITS = (
    "metadata",
    "x-claude-code-session-id",
    "x-claude-code-prompt-id",
    "x-claude-code-prev-tool-durations",
    "content-length",
)
"""What differs between any two agents: ids that they make up, times, the length of their names."""


@pytest.fixture(scope="module")
def model() -> Iterator[Path]:
    need("sdk")
    with scripted_model() as folder:
        yield folder / "model.sock"


@contextmanager
def agent_with_egress(model: Path) -> Iterator[LocalAgent]:
    """As behind a gateway, which always has both sockets open before the first turn."""
    with local_agent(model) as agent, socket.socket(socket.AF_UNIX) as egress:
        egress.bind(str(agent.socket.parent / "egress.sock"))
        yield agent


async def asked(model: Path) -> list[dict[str, Any]]:
    """The headers of each call since the last time, and the body of the newest one."""
    transport = httpx.AsyncHTTPTransport(uds=str(model))
    async with httpx.AsyncClient(transport=transport, base_url="http://model") as client:
        calls = (await client.get("/_script/log")).json()
        last = (await client.get("/_script/last")).json()
        await client.delete("/_script/log")
    return [*(call["headers"] | {"path": call["path"]} for call in calls), last]


def cli_of(agent: LocalAgent) -> int:
    """The process of its CLI: the one with its model's socket that has started nothing else."""
    needle = f"HOME={agent.socket.parent}\0".encode()
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if (
                needle in (folder / "environ").read_bytes()
                and b"AGCLUSTER_CLI=" in (folder / "environ").read_bytes()
            ):
                found.append(int(folder.name))
    (cli,) = found
    return cli


def alike(found: list[dict[str, Any]], agent: LocalAgent) -> str:
    """Without what only this agent could send."""
    kept = [{k: v for k, v in one.items() if k not in ONLY_ITS} for one in found]
    name = agent.socket.parent.name
    text = json.dumps(kept, indent=1, sort_keys=True)
    # The CLI spells it in two ways and makes up names for its files; the model numbers calls.
    return re.sub(rf"{name}|{name.replace('_', '-')}|toolu_\w+", "its", text)


async def prepared(agent: LocalAgent, upstream: Path, settings: AgentSettings = SPARE) -> None:
    """Make a spare of it. That asks the model nothing."""
    await asked(upstream)
    async with connected(agent.socket, fence=0) as (link, _):
        await link.send(Prepare(settings=settings))
        await link.expect(Prepared)
    *calls, _ = await asked(upstream)
    assert calls == []


async def turns(
    agent: LocalAgent, upstream: Path, settings: dict[str, Any]
) -> tuple[list[str], list[str]]:
    """What two turns said, and what the model was asked for them."""
    said, seen = [], []
    await asked(upstream)
    async with connected(agent.socket) as (link, _):
        for n, prompt in enumerate((LOOKS_AROUND, "history")):
            start = start_turn(f"s{n}", prompt, **{"tools": TOOLS, "max_turns": 20, **settings})
            text = text_of(await link.run(start))
            said.append(text.replace(agent.socket.parent.name, "agent"))
            seen.append(alike(await asked(upstream), agent))
    return said, seen


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"model": SONNET}, id="as prepared"),
        pytest.param({"model": OPUS}, id="another model"),
        pytest.param({"model": SONNET, "system_prompt": "You are X.\nSay ONE."}, id="prompt"),
        pytest.param({"model": OPUS, "system_prompt": "You are Y."}, id="both"),
    ],
)
async def test_a_spares_turns_are_those_of_a_cold_agent_on_the_wire(
    model: Path, settings: dict[str, Any]
) -> None:
    with agent_with_egress(model) as cold:
        told, wanted = await turns(cold, model, settings)
    with agent_with_egress(model) as spare:
        await prepared(spare, model)
        pid = cli_of(spare)
        said, found = await turns(spare, model, settings)
        assert cli_of(spare) == pid, "the spare's CLI was not used"

    assert (said, found) == (told, wanted)
    assert settings["model"] in found[0]
    assert settings.get("system_prompt", "You are an interactive")[:7] in found[1]


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"tools": ("Bash",)}, id="other tools"),
        pytest.param({"max_turns": 3}, id="another number of calls"),
        pytest.param({"system_prompt": ""}, id="no prompt"),
        pytest.param({"history": SAID}, id="with a past"),
    ],
)
async def test_a_turn_that_its_cli_cannot_serve_gets_a_cli_of_its_own(
    model: Path, settings: dict[str, Any]
) -> None:
    with agent_with_egress(model) as cold:
        told, wanted = await turns(cold, model, settings)
    with agent_with_egress(model) as spare:
        await prepared(spare, model)
        pid = cli_of(spare)
        said, found = await turns(spare, model, settings)
        assert cli_of(spare) != pid

    assert (said, found) == (told, wanted)


async def test_files_that_were_moved_in_are_seen_by_a_cli_of_their_own(model: Path) -> None:
    with agent_with_egress(model) as spare:
        await prepared(spare, model)
        pid = cli_of(spare)
        (spare.workspace / "notes.txt").write_text("mine")
        async with connected(spare.socket) as (link, _):
            start = start_turn("f", "tool bash cat notes.txt", tools=TOOLS, max_turns=20)
            assert "mine" in text_of(await link.run(start))
        assert cli_of(spare) != pid


async def test_a_spare_whose_cli_died_serves_its_turn_all_the_same(model: Path) -> None:
    with agent_with_egress(model) as spare:
        await prepared(spare, model)
        os.kill(cli_of(spare), signal.SIGKILL)
        said, _ = await turns(spare, model, {})
    assert "PATH" in said[0]


async def test_an_agent_that_has_had_a_turn_is_no_spare(model: Path) -> None:
    with agent_with_egress(model) as agent:
        await turns(agent, model, {})
        async with connected(agent.socket) as (link, _):
            await link.run(start_turn("last", "hello"))
            await link.send(Prepare(settings=SPARE))
            assert isinstance(await link.expect(Refused), Refused)
