"""Many idle conversations that come due at once all go, a few at a time, whatever else hangs."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from infra.runtime.clock import SystemClock
from infra.wire.ids import ConversationKey, HostId
from tests.fakes.memory_host import MemoryHost, MemoryMachine
from tests.fakes.worker_stage import QUICK, Stage, conversation, eventually
from worker.hosts.host import ContainerId
from worker.placement.idle_stops import STOPS_AT_ONCE, IdleStops
from worker.placement.reaper import DUE_AT_ONCE

ONE_SWEEP = replace(QUICK, sweep_at_least_s=3600.0, sweep_at_most_s=3600.0)
"""The one of the start, and what a test asks for."""
OTHER_HOST = HostId("host-2")


class GatedHost(MemoryHost):
    """A stop takes until the test opens the gate."""

    def __init__(self, machine: MemoryMachine) -> None:
        super().__init__(machine)
        self.gate = asyncio.Event()
        self.stopping = self.most_at_once = 0

    async def stop(self, id: ContainerId, *, grace_s: float = 2.0) -> None:
        self.stopping += 1
        self.most_at_once = max(self.most_at_once, self.stopping)
        await self.gate.wait()
        await super().stop(id, grace_s=grace_s)
        self.stopping -= 1


async def warm(stage: Stage, name: str, *, idle_timeout_s: float) -> ConversationKey:
    c = conversation(name)
    await stage.ended(await stage.ask(c, "echo hi", idle_timeout_s=idle_timeout_s))
    return c


async def left_behind(stage: Stage, host: HostId, count: int) -> None:
    """Due conversations of a host whose worker has died."""
    async with stage.redis.pipeline(transaction=True) as pipe:
        for n in range(count):
            c = conversation(f"left-{n}")
            record = {"tenant": "t", "state": "warm", "host": host, "fence": 1, "container": "gone"}
            pipe.hset(stage.keys.conversation(c), mapping=record)
            pipe.zadd(stage.keys.idle(), {c: 1})
        await pipe.execute()


async def test_one_round_goes_on_until_nothing_is_due(stage: Stage) -> None:
    """Each round took fifty, so a dead worker's took as many rounds as it had fifties."""
    worker = await stage.worker(timings=ONE_SWEEP)
    await left_behind(stage, OTHER_HOST, 2 * DUE_AT_ONCE + 10)

    await worker.process.reaper.sweep()
    await eventually(lambda: not worker.process.placement.conversations)

    assert not list(await stage.store.conversations.due())
    assert not await stage.redis.zcard(stage.keys.idle())


@pytest.mark.slow
async def test_a_full_page_of_what_cannot_stop_now_hides_nothing(stage: Stage) -> None:
    """Nor is it a reason to ask for ever."""
    host = GatedHost(stage.machine)
    worker = await stage.worker(host=host, timings=ONE_SWEEP, slots=2 * DUE_AT_ONCE)
    cs = [await warm(stage, f"c{n}", idle_timeout_s=600) for n in range(DUE_AT_ONCE + 5)]
    actors = worker.process.placement.conversations.values()
    await eventually(lambda: all(actor.is_resting for actor in actors))
    await stage.redis.zadd(stage.keys.idle(), dict.fromkeys(cs, 1))

    async with asyncio.timeout(20):
        await worker.process.reaper.sweep()
    await eventually(lambda: host.stopping == STOPS_AT_ONCE)
    host.gate.set()

    await eventually(lambda: not stage.containers())
    assert host.most_at_once == STOPS_AT_ONCE


@pytest.mark.slow
async def test_own_deadlines_are_kept_a_few_at_a_time_without_a_sweep(stage: Stage) -> None:
    host = GatedHost(stage.machine)
    worker = await stage.worker(host=host, timings=ONE_SWEEP)
    for n in range(2 * STOPS_AT_ONCE):
        await warm(stage, f"c{n}", idle_timeout_s=0.5)

    await eventually(lambda: host.stopping == STOPS_AT_ONCE)
    assert worker.process.reaper.idle.look(), "more are due than may stop at once"
    assert host.stopping == STOPS_AT_ONCE
    host.gate.set()

    await eventually(lambda: not stage.containers())
    assert host.most_at_once == STOPS_AT_ONCE


@pytest.mark.slow
async def test_a_host_that_hangs_delays_nobody_elses(stage: Stage) -> None:
    host = GatedHost(stage.machine)
    hangs = await stage.worker(host=host, timings=ONE_SWEEP)
    for n in range(STOPS_AT_ONCE + 2):
        await warm(stage, f"c{n}", idle_timeout_s=0.5)
    await eventually(lambda: host.stopping == STOPS_AT_ONCE)
    hangs.process.placement.close()

    other = await stage.worker(host_id=OTHER_HOST, timings=ONE_SWEEP)
    mine = await warm(stage, "mine", idle_timeout_s=0.5)
    assert mine in other.process.placement.conversations
    await eventually(lambda: mine not in other.process.placement.conversations)

    assert host.stopping == STOPS_AT_ONCE, "nothing has stopped over there"
    host.gate.set()
    await eventually(lambda: not stage.containers())


class _Stopping:
    """A conversation that is being stopped, by whatever asked for it."""

    is_being_stopped = True
    is_resting = False


def test_with_more_stops_under_way_than_it_may_begin_nothing_is_more_due() -> None:
    """Stops that make room are not bounded by it; it looked again every 50 ms until they ended."""
    stopping: Any = {ConversationKey(f"{n:024x}"): _Stopping() for n in range(STOPS_AT_ONCE + 1)}
    assert not IdleStops(stopping, SystemClock(), longest_s=60).look()
