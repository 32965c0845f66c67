"""A turn that is to be stopped: for the first reason, and known at once."""

from __future__ import annotations

import asyncio

from infra.wire.link import InterruptReason
from tests.fakes.manual_clock import ManualClock, settle
from worker.turns.limits.interruption import Interruption


async def test_the_first_reason_counts() -> None:
    stop = Interruption()
    assert stop.reason is None
    assert stop.ask(InterruptReason.SHUTDOWN)
    assert not stop.ask(InterruptReason.CANCELLED)
    assert stop.reason is InterruptReason.SHUTDOWN


async def test_who_waits_for_a_reason_hears_it_at_once() -> None:
    stop, clock = Interruption(), ManualClock()
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        waiting = group.create_task(stop.asked(clock, within_s=60))
        await settle()
        stop.ask(InterruptReason.CANCELLED)
    assert waiting.result() is InterruptReason.CANCELLED


async def test_without_a_reason_the_time_ends_the_waiting() -> None:
    stop, clock = Interruption(), ManualClock()
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        waiting = group.create_task(stop.asked(clock, within_s=60))
        await settle()
        await clock.advance(60)
    assert waiting.result() is None


async def test_no_time_left_is_not_waited_for() -> None:
    stop, clock = Interruption(), ManualClock()
    assert await stop.asked(clock, within_s=0) is None
    stop.ask(InterruptReason.DEADLINE)
    assert await stop.asked(clock, within_s=-1) is InterruptReason.DEADLINE
