"""A CLI that does not come up: it is started again, and what ends says that nothing had run."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import claude_agent_sdk
import pytest

from agent.session import START_TRIES
from infra.wire.errors import ErrorCode
from infra.wire.ids import TurnId
from infra.wire.link import Interrupt, InterruptReason
from infra.wire.states import TurnState
from tests.fakes.contained_agent import scripted_model
from tests.fakes.link_client import LinkClient, connected, end_of, start_turn, text_of
from tests.fakes.local_agent import local_agent
from tests.parts import need

pytestmark = [pytest.mark.sdk, pytest.mark.timeout(120)]

CLI = Path(claude_agent_sdk.__file__).parent / "_bundled" / "claude"
DIES_WHEN_ASKED = """
import json, sys
for line in sys.stdin:
    asked = json.loads(line)
    if asked["type"] == "user":
        sys.exit(1)
    answer = {"subtype": "success", "request_id": asked["request_id"], "response": {}}
    print(json.dumps({"type": "control_response", "response": answer}), flush=True)
"""
"""A CLI that comes up and ends with the first message."""
FAILS, HANGS = "exit 1", "exec sleep 600"
CONNECT_S = 10.0
"""Enough for a CLI that is well, on a busy machine too; where not, there are tries left."""
PROMPTLY_S = 5.0
"""A worker waits for five before it ends the container."""


@pytest.fixture(scope="module")
def model() -> Iterator[Path]:
    need("sdk")
    with scripted_model() as folder:
        yield folder / "model.sock"


class TroubledCli:
    """The real CLI, whose first starts go wrong."""

    def __init__(self, folder: Path, *, trouble: str, starts: int) -> None:
        self.path = folder / "cli"
        self._log = folder / "starts"
        self._log.touch()
        self.path.write_text(
            f"""#!/bin/sh
[ "$1" = "-v" ] && exec {CLI} -v
echo start >> {self._log}
[ $(wc -l < {self._log}) -le {starts} ] && {trouble}
exec {CLI} "$@"
"""
        )
        self.path.chmod(0o755)

    @property
    def starts(self) -> int:
        return len(self._log.read_text().split())

    async def until_started(self) -> None:
        """Nothing tells when."""
        async with asyncio.timeout(60):
            while not self.starts:  # noqa: ASYNC110
                await asyncio.sleep(0.02)


@asynccontextmanager
async def agent_with(
    cli: TroubledCli, model: Path, *, connect_timeout_s: float | None = None
) -> AsyncIterator[LinkClient]:
    with local_agent(model, cli=cli.path, connect_timeout_s=connect_timeout_s) as agent:
        async with connected(agent.socket) as (link, _):
            yield link


async def test_a_cli_that_does_not_come_up_is_started_again(tmp_path: Path, model: Path) -> None:
    cli = TroubledCli(tmp_path, trouble=FAILS, starts=2)
    async with agent_with(cli, model) as link:
        events = await link.run(start_turn("t1", "echo here after all"))

    assert (end_of(events).state, text_of(events)) == (TurnState.DONE, "here after all")
    assert cli.starts == 3


async def test_a_cli_that_takes_too_long_to_come_up_is_started_again(
    tmp_path: Path, model: Path
) -> None:
    """A slow first start failed its turn with `process ended in the middle of the turn`."""
    cli = TroubledCli(tmp_path, trouble=HANGS, starts=1)
    async with agent_with(cli, model, connect_timeout_s=CONNECT_S) as link:
        events = await link.run(start_turn("t1", "echo here after all"))

    assert (end_of(events).state, text_of(events)) == (TurnState.DONE, "here after all")
    assert cli.starts > 1


async def test_a_cli_that_ends_before_it_has_said_anything_has_not_started_the_turn(
    tmp_path: Path, model: Path
) -> None:
    """It had come up, so its turn was told to have ended in the middle, and not to be repeated."""
    program = tmp_path / "dies.py"
    program.write_text(DIES_WHEN_ASKED)
    cli = TroubledCli(tmp_path, trouble=f"exec {sys.executable} {program}", starts=1)
    async with agent_with(cli, model) as link:
        ended = end_of(await link.run(start_turn("t1", "echo never")))
        events = await link.run(start_turn("t2", "echo on"))

    assert ended.error is not None
    assert ended.error.code is ErrorCode.CONTAINER_FAILED
    assert (end_of(events).state, text_of(events)) == (TurnState.DONE, "on")


async def test_a_cli_that_never_comes_up_ends_the_turn_as_not_started(
    tmp_path: Path, model: Path
) -> None:
    cli = TroubledCli(tmp_path, trouble=FAILS, starts=99)
    async with agent_with(cli, model) as link:
        ended = end_of(await link.run(start_turn("t1", "echo never")))

    assert ended.error is not None
    assert ended.error.code is ErrorCode.CONTAINER_FAILED
    assert ended.error.message == "The agent could not be started. Please try again."
    assert cli.starts == START_TRIES


async def test_a_turn_is_stopped_while_its_cli_starts_and_the_next_one_works(
    tmp_path: Path, model: Path
) -> None:
    """The agent heard of the stop when its CLI was up, and was killed by its worker before that."""
    cli = TroubledCli(tmp_path, trouble=HANGS, starts=1)
    async with agent_with(cli, model) as link:
        await link.send(start_turn("t1", "echo never"))
        await cli.until_started()
        await link.send(Interrupt(turn=TurnId("t1"), reason=InterruptReason.CANCELLED))
        async with asyncio.timeout(PROMPTLY_S):
            ended = end_of(await link.collect(TurnId("t1")))
        events = await link.run(start_turn("t2", "echo on"))

    assert ended.state is TurnState.CANCELLED
    assert text_of(events) == "on"
