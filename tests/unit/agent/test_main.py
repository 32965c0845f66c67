"""The agent's process: what it may import, and what it is called with."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
FORBIDDEN = (
    "api",
    "worker",
    "infra.store",
    "infra.runtime",
    "redis",
    "docker",
    "arq",
    "fastapi",
    "aiohttp",
)


@pytest.mark.slow
def test_the_whole_agent_can_be_imported_without_the_rest_of_the_project() -> None:
    """The image holds nothing else."""
    block = f"import sys; sys.modules.update(dict.fromkeys({FORBIDDEN!r})); "
    done = subprocess.run(
        [sys.executable, "-c", block + "import agent.main, agent.session"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_server_is_ready_before_the_sdk_is_loaded() -> None:
    code = "import sys, agent.main; assert 'claude_agent_sdk' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_image_installs_the_sdk_the_project_pins() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    locked = (REPOSITORY / "infra/images/agent.requirements.txt").read_text()
    [pinned] = [r for r in project["optional-dependencies"]["agent"] if "==" in r]
    assert f"\n{pinned} " in f"\n{locked}"
