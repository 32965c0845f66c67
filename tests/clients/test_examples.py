"""The examples in JavaScript do what they say."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.conftest import ENVIRONMENT
from tests.e2e.deployments import Deployment
from tests.examples import (
    COUNT,
    COUNTED,
    FOLDER,
    MAKE,
    READ,
    SLOWLY,
    TRIP,
    WEATHER,
    run_example,
)
from tests.parts import node_program

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def examples() -> Iterator[Path]:
    """A copy of the examples beside the packages, where node looks for them."""
    assert ENVIRONMENT is not None
    folder = Path(ENVIRONMENT) / "examples"
    shutil.copytree(FOLDER, folder, dirs_exist_ok=True)
    yield folder
    shutil.rmtree(folder)


def test_they_do_what_those_in_python_do(
    deployment: Deployment, examples: Path, tmp_path: Path
) -> None:
    def printed(name: str, *arguments: str) -> str:
        return run_example(deployment, [str(node_program())], name, *arguments, folder=examples)

    table = tmp_path / "table.csv"
    table.write_text("order,date\n17,2026-12-01\n")
    assert printed("structured_output.mjs", TRIP) == "3 days in Rome\n"
    assert printed("functions.mjs", WEATHER) == "called get_weather: sunny in Rome\nIt is nice.\n"
    assert "17,2026-12-01" in printed("files_in.mjs", str(table), READ)
    assert "outputs/table.csv: 10 bytes" in printed("files_out.mjs", f"made-{uuid.uuid4()}", MAKE)
    assert printed("stream.mjs", COUNT) == COUNTED
    assert printed("hang_up.mjs", COUNT) == f"hung up\n{COUNTED}"
    assert printed("cancel.mjs", "20", SLOWLY).endswith("\n[turn_cancelled]\n")
    pdf = tmp_path / "contract.pdf"
    pdf.write_bytes(b"%PDF-1.4\n")
    assert "contract.pdf" in printed("attach_pdf.mjs", str(pdf), "tool bash ls uploads")
    garden, office = printed("two_conversations.mjs").splitlines()
    assert (garden[:8], office[:8]) == ("garden: ", "office: ")
