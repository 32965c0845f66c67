"""Many containers that are to go, and what is on record of those that run."""

from __future__ import annotations

import asyncio
import logging

import pytest

from infra.wire.errors import ContainerFailed
from infra.wire.states import TurnState
from tests.fakes.memory_host import HOST, MemoryHost, MemoryMachine
from tests.fakes.worker_stage import WAIT_S, Stage, conversation
from worker.hosts.host import ContainerId
from worker.hosts.stopping import stop_at_once

MANY = 50


class MeetingHost(MemoryHost):
    """No stop returns before all of them are under way; the first one resists."""

    def __init__(self, machine: MemoryMachine) -> None:
        super().__init__(machine)
        self._meeting = asyncio.Barrier(MANY)

    async def stop(self, id: ContainerId, *, grace_s: float = 2.0) -> None:
        assert grace_s == 0
        await self._meeting.wait()
        if id == "box-0":
            raise ContainerFailed("it does not die")


async def test_many_containers_are_stopped_at_once_and_one_that_resists_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR)
    host = MeetingHost(MemoryMachine())
    async with asyncio.timeout(WAIT_S):
        await stop_at_once(host, [ContainerId(f"box-{i}") for i in range(MANY)])
    assert [record.getMessage() for record in caplog.records] == [
        "container not stopped: it does not die"
    ]


async def test_what_runs_on_a_host_is_on_record(stage: Stage) -> None:
    await stage.worker()
    asked = {c: await stage.ask(c, "echo hi") for c in map(conversation, ("one", "two"))}
    for turn in asked.values():
        assert (await stage.ended(turn)).state is TurnState.DONE
    key = stage.keys.host_containers(HOST)
    found: dict[bytes, bytes] = {}
    async with asyncio.timeout(WAIT_S):
        while len(found) < len(asked):
            await asyncio.sleep(0.02)
            found = await stage.redis.hgetall(key)  # type: ignore[misc]
    assert found == {
        id.encode(): k.container.conversation.encode() for id, k in stage.machine.kept.items()
    }
