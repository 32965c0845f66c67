"""The SDK is imported without what it needs for tools in its own process only."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[4]

SESSION = (
    "from agent.cli.without_mcp import leave_out_mcp; leave_out_mcp(); import agent.session, sys; "
)


def test_the_session_is_imported_and_nothing_of_mcp_is_loaded() -> None:
    """Fails when a newer SDK needs more than names of it, or when the real ones slip in."""
    heavy = "{'mcp_types', 'rfc3987_syntax', 'lark', 'starlette', 'uvicorn'}"
    _run(SESSION + f"assert not {heavy} & sys.modules.keys(), {heavy} & sys.modules.keys()")


def test_what_is_left_out_says_so_when_it_is_used() -> None:
    _run(
        SESSION + "from mcp.types import Tool\n"
        "try:\n    Tool(name='x')\n"
        "except RuntimeError as error:\n    assert 'Tool' in str(error), error\n"
        "else:\n    raise AssertionError('a placeholder was made')"
    )


@pytest.mark.slow
def test_one_that_is_loaded_already_stays() -> None:
    _run(
        "import mcp.types; from agent.cli.without_mcp import leave_out_mcp; leave_out_mcp()\n"
        "import agent.session\n"
        "assert mcp.types.Tool(name='x', inputSchema={}).name == 'x'"
    )


def _run(code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
