"""One loop books what all running turns of a worker use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from infra.store.conversations.leases import Lease
from infra.wire.errors import LeaseLost
from infra.wire.ids import Fence, WorkerId
from tests.fakes.manual_clock import ManualClock
from tests.fakes.worker_stage import conversation
from worker.meter_rounds import MeterRounds
from worker.ownership import HeldLease


class Turns:
    """Turns by name that are looked at in rounds."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.rounds = MeterRounds(self.clock, every_s=2.0)
        self.looked: list[str] = []
        self.failing: dict[str, Exception] = {}
        self.hanging: dict[str, asyncio.Event] = {}

    @asynccontextmanager
    async def running(self, name: str) -> AsyncIterator[HeldLease]:
        lease = Lease(conversation(name), WorkerId("w"), Fence(1))
        held = HeldLease(lease, self.clock, confirmed_s=0.0, fence_after_s=1e9)

        async def look() -> None:
            await asyncio.sleep(0)
            if name in self.hanging:
                await self.hanging[name].wait()
            self.looked.append(name)
            if name in self.failing:
                raise self.failing[name]

        async with self.rounds.following(look, held):
            yield held

    @asynccontextmanager
    async def going_round(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            going = group.create_task(self.rounds.run())
            yield
            going.cancel()


async def test_a_round_looks_at_all_that_run_and_a_short_turn_is_never_looked_at() -> None:
    turns = Turns()
    async with turns.going_round():
        await turns.clock.advance(1)
        async with turns.running("short"):
            pass
        async with turns.running("one"), turns.running("two"):
            await turns.clock.advance(1)
            assert turns.looked == ["one", "two"]
        async with turns.running("three"):
            await turns.clock.advance(2)
    assert turns.looked == ["one", "two", "three"]


@pytest.mark.parametrize("error", [LeaseLost(conversation("one"), Fence(1)), ValueError("odd")])
async def test_what_fails_for_one_turn_concerns_no_other(error: Exception) -> None:
    turns = Turns()
    turns.failing["one"] = error
    async with turns.going_round(), turns.running("one") as held, turns.running("two") as other:
        await turns.clock.advance(4)
        assert held.lost.is_set() is isinstance(error, LeaseLost)
        assert not other.lost.is_set()
    assert turns.looked == ["one", "two"] * 2


async def test_no_look_outlives_its_turn() -> None:
    """Its last step may open the turn at the gateway, which the end has closed."""
    turns = Turns()
    answer = turns.hanging["one"] = asyncio.Event()
    async with turns.going_round(), turns.running("two"):
        async with turns.running("one"):
            await turns.clock.advance(2)
        answer.set()
        await turns.clock.advance(2)
    assert turns.looked == ["two"] * 2
