"""A Redis that took another's place knows less than the hosts do, and its clock may be behind.

Agents, gateways and folders obey no fence that is older than one they have seen.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from infra.wire.ids import Fence
from infra.wire.states import TurnState
from tests.fakes.worker_stage import QUICK, RunningWorker, Stage, conversation

C = conversation("one")
HOUR_US = 3_600_000_000


async def owner_by_a_fast_clock(stage: Stage) -> RunningWorker:
    """A worker whose fences come from a Redis that is an hour ahead of the one that follows."""
    worker = await stage.worker(timings=replace(QUICK, hand_over_s=0.0))
    ownership = worker.process.parts.ownership
    ownership._newest = Fence(stage.clock.unix_ms() * 1000 + HOUR_US)
    return worker


async def fail_over(stage: Stage, worker: RunningWorker) -> Fence:
    """The worker dies; the next Redis has not heard of its fence. Which one that was."""
    record = await stage.store.conversations.get(C)
    assert record is not None
    await worker.kill()
    await stage.store.workers.leave(worker.id)
    await stage.redis.hset(stage.keys.conversation(C), "fence", "1")  # type: ignore[misc]
    await stage.lapse_lease(C)
    return record.fence


@pytest.mark.parametrize("is_running", [False, True])
async def test_a_sibling_goes_on_above_the_fence_its_host_has_seen(
    stage: Stage, is_running: bool
) -> None:
    """It was given older ones, was refused by the host, and tried again for ever."""
    first = await owner_by_a_fast_clock(stage)
    turn = await stage.ask(C, "stream 50 every 10 ms")
    await (stage.until_logged(turn, 5) if is_running else stage.ended(turn))
    before = await fail_over(stage, first)

    await stage.worker()
    if not is_running:
        turn = await stage.ask(C, "echo again")

    async with asyncio.timeout(15):
        assert (await stage.ended(turn)).state is TurnState.DONE
    record = await stage.store.conversations.get(C)
    assert record is not None
    assert record.fence > before > Fence(stage.clock.unix_ms() * 1000)
    assert len(stage.agents[C]) == 1, "its agent goes on"


async def test_what_a_sibling_finds_idle_it_stops(stage: Stage) -> None:
    first = await owner_by_a_fast_clock(stage)
    await stage.ended(await stage.ask(C, "echo hi", idle_timeout_s=0.5))
    await fail_over(stage, first)

    await stage.worker()

    async with asyncio.timeout(15):
        # Neither the machine nor the gateway tells anybody.
        while stage.containers() or C in stage.gateway.sessions:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
