"""The examples in Python and for curl. Those in JavaScript run in `make test-clients`."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from tests.e2e.conftest import KINDS
from tests.e2e.deployments import Deployment
from tests.examples import MAKE, PYTHON, READ, SHELL, TRIP, WEATHER, run_example

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.parametrize("deployment", KINDS[1:2], indirect=True),
]


def test_answer_that_is_an_object(deployment: Deployment) -> None:
    assert run_example(deployment, PYTHON, "structured_output.py", TRIP) == "3 days in Rome\n"
    told = run_example(deployment, SHELL, "structured_output.sh", TRIP)
    assert '"content":"{\\"city\\":\\"Rome\\",\\"days\\":3}"' in told


def test_functions_of_the_program(deployment: Deployment) -> None:
    told = run_example(deployment, PYTHON, "functions.py", WEATHER)
    assert told == "called get_weather: sunny in Rome\nIt is nice.\n"
    told = run_example(deployment, SHELL, "functions.sh", WEATHER)
    assert '"finish_reason":"tool_calls"' in told
    assert '"name":"get_weather"' in told


def test_files_in(deployment: Deployment, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("order,date\n17,2026-12-01\n")
    for command, name in ((PYTHON, "files_in.py"), (SHELL, "files_in.sh")):
        assert "17,2026-12-01" in run_example(deployment, command, name, str(table), READ)


def test_an_agent_over_a2a(deployment: Deployment) -> None:
    told = run_example(deployment, PYTHON, "agent_over_a2a.py", "reviewer", "echo It is good.")
    assert told.startswith("reviewer: ")
    assert "It is good." in told
    assert told.endswith("[TASK_STATE_COMPLETED] \n")


def test_files_out(deployment: Deployment) -> None:
    told = run_example(deployment, PYTHON, "files_out.py", f"made-{uuid.uuid4()}", MAKE)
    assert "outputs/table.csv: 10 bytes" in told
    assert "table.csv" in run_example(
        deployment, SHELL, "files_out.sh", f"made-{uuid.uuid4()}", MAKE
    )
