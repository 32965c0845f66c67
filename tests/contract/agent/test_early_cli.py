"""An agent's CLI that was started before the agent knew the turn."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.wire.agents.permissions import Permissions
from infra.wire.events import TurnStarted
from infra.wire.link import AgentSettings, AgentTimes, Launch
from infra.wire.states import TurnState
from tests.fakes.contained_agent import scripted_model
from tests.fakes.link_client import LinkClient, connected, end_of, start_turn, text_of
from tests.fakes.local_agent import LocalAgent, local_agent
from tests.parts import need

pytestmark = [pytest.mark.sdk, pytest.mark.timeout(240)]

MODEL = "claude-sonnet-4-5-20250929"
SETTINGS = AgentSettings(model=MODEL, tools=(), system_prompt="You are Ada.")


@pytest.fixture(scope="module")
def model() -> Iterator[Path]:
    need("sdk")
    with scripted_model() as folder:
        yield folder / "model.sock"


def clis(agent: LocalAgent) -> set[int]:
    """The CLIs that work in its workspace."""
    found = subprocess.run(
        ["pgrep", "-f", "--", "--session-mirror"], capture_output=True, text=True, check=False
    )
    pids = map(int, found.stdout.split())
    return {pid for pid in pids if _folder_of(pid) == agent.workspace}


def _folder_of(pid: int) -> Path | None:
    try:
        return Path(f"/proc/{pid}/cwd").resolve(strict=True)
    except OSError:
        return None


async def run(link: LinkClient, turn: str, prompt: str) -> str:
    events = await link.run(
        start_turn(turn, prompt, model=MODEL, system_prompt=SETTINGS.system_prompt)
    )
    assert end_of(events).state is TurnState.DONE, events[-1]
    assert isinstance(events[0], TurnStarted)
    return text_of(events)


def was_early(times: AgentTimes) -> bool:
    assert times.listening_ms is not None
    assert times.cli_spawned_ms is not None
    return times.cli_spawned_ms < times.listening_ms


async def test_the_turn_gets_it_and_so_does_the_next_one(model: Path) -> None:
    with local_agent(model, launch=Launch(settings=SETTINGS).encode()) as agent:
        early = clis(agent)
        async with connected(agent.socket) as (link, _):
            assert await run(link, "t1", "count 2")
            assert "You are Ada." in await run(link, "t2", "system")
            assert "count 2" in await run(link, "t3", "history")
            [times] = link.times

        assert len(early) == 1
        assert clis(agent) == early
        assert was_early(times)


async def test_one_whose_calls_may_be_held_back_is_early_too(model: Path) -> None:
    settings = SETTINGS.model_copy(
        update={"permissions": Permissions(ask=("Bash(touch:*)",)), "tools": ("Bash",)}
    )
    with local_agent(model, launch=Launch(settings=settings).encode()) as agent:
        early = clis(agent)
        async with connected(agent.socket) as (link, _):
            start = start_turn("t1", "tool bash touch made then echo unsaid then echo done")
            first = await link.run(start.model_copy(update={"settings": settings}))
            assert "May I do this?" in text_of(first)
            start = start_turn("t2", "1")
            second = await link.run(start.model_copy(update={"settings": settings}))
            assert text_of(second) == "done"
            assert was_early(link.times[0])
        assert clis(agent) == early
        assert "made" in os.listdir(agent.workspace)


@pytest.mark.parametrize(
    "launch",
    [
        Launch(settings=SETTINGS.model_copy(update={"model": "another"})).encode(),
        b'{"settings": {"model": "m", "tools": [], "interrupt_grace_s": "long"}}',
    ],
    ids=["another model", "settings nobody can read"],
)
async def test_a_turn_that_needs_another_one_gets_it(model: Path, launch: bytes) -> None:
    with local_agent(model, launch=launch) as agent:
        early = clis(agent)
        async with connected(agent.socket) as (link, _):
            assert await run(link, "t1", "count 2")
            [times] = link.times

        assert len(early) == 1
        assert not clis(agent) & early
        assert not was_early(times)


async def test_one_that_is_dead_by_then_costs_nothing(model: Path, tmp_path: Path) -> None:
    """The first CLI ends at once; the real one is started after it."""
    from claude_agent_sdk import __file__ as sdk

    real, cli, been = Path(sdk).parent / "_bundled/claude", tmp_path / "cli", tmp_path / "been"
    cli.write_text(
        f"#!{sys.executable}\nimport os, pathlib, sys\nbeen = pathlib.Path({str(been)!r})\n"
        f"if been.exists(): os.execv({str(real)!r}, sys.argv)\nbeen.touch()\n"
    )
    cli.chmod(0o700)
    with local_agent(model, cli=cli, launch=Launch(settings=SETTINGS).encode()) as agent:
        async with connected(agent.socket) as (link, _):
            assert await run(link, "t1", "count 2")
            assert not was_early(link.times[0])
