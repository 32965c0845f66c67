"""What a request leaves behind is carried out beside it, and again while Redis is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from api.http.drain import Drain
from api.turns.deferred import GIVE_UP_S, WAITING_MAX, DeferredCalls
from infra.wire.errors import StoreUnavailable, TurnNotFound
from infra.wire.ids import TurnId
from tests.fakes.manual_clock import ManualClock, settle

TURN = TurnId("turn_1")


class FlakyStore:
    """Does what it is told, after being away as often as told."""

    def __init__(self, *, away: int = 0, is_unknown: bool = False) -> None:
        self.away = away
        self.is_unknown = is_unknown
        self.calls = 0

    async def __call__(self) -> None:
        self.calls += 1
        if self.calls <= self.away:
            raise StoreUnavailable("away")
        if self.is_unknown:
            raise TurnNotFound(TURN)


@asynccontextmanager
async def running(deferred: DeferredCalls) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        loop = group.create_task(deferred.run())
        yield
        loop.cancel()


async def test_a_call_is_carried_out() -> None:
    store = FlakyStore()
    deferred = DeferredCalls(ManualClock())
    async with running(deferred):
        deferred.add("cancel", TURN, store)
        await deferred.settled()
    assert store.calls == 1


async def test_a_call_is_tried_again_while_redis_is_away() -> None:
    clock = ManualClock()
    store = FlakyStore(away=3)
    deferred = DeferredCalls(clock)
    async with running(deferred):
        deferred.add("cancel", TURN, store)
        await clock.advance(5)
        await deferred.settled()
    assert store.calls == 4


async def test_a_call_is_given_up_after_a_while() -> None:
    clock = ManualClock()
    store = FlakyStore(away=10**6)
    deferred = DeferredCalls(clock)
    async with running(deferred):
        deferred.add("cancel", TURN, store)
        await clock.advance(GIVE_UP_S + 2)
        await deferred.settled()
        called = store.calls
        await clock.advance(10)
        await settle()
    assert store.calls == called


async def test_turn_that_is_gone_needs_no_errand() -> None:
    deferred = DeferredCalls(ManualClock())
    async with running(deferred):
        deferred.add("cancel", TURN, FlakyStore(is_unknown=True))
        await deferred.settled()


def test_errands_beyond_the_bound_are_dropped() -> None:
    deferred = DeferredCalls(ManualClock())
    for _ in range(WAITING_MAX + 1):
        deferred.add("cancel", TURN, FlakyStore())


def test_drain_cuts_what_is_open_and_nothing_else() -> None:
    drain = Drain()
    cut: list[str] = []
    with drain.holds(lambda: cut.append("open")):
        with drain.holds(lambda: cut.append("closed")):
            assert drain.open_count == 2
        drain.cut()
    assert cut == ["open"]
    assert drain.open_count == 0


@pytest.mark.parametrize("step", ["begin", "close"])
def test_draining_is_told_in_two_steps(step: str) -> None:
    drain = Drain()
    getattr(drain, step)()
    assert (drain.is_draining, drain.is_closed) == (step == "begin", step == "close")


async def test_errand_may_wait_but_not_beyond_the_end() -> None:
    deferred, store = DeferredCalls(ManualClock()), FlakyStore()
    deferred.add("hang-up", TURN, store, after_s=3600)
    async with running(deferred):
        await deferred.settled()
        assert store.calls == 0
        deferred.hurry()
        await deferred.settled()
        assert store.calls == 1


async def test_errand_that_waits_is_carried_out_in_time() -> None:
    deferred, is_done = DeferredCalls(ManualClock()), asyncio.Event()

    async def run() -> None:
        is_done.set()

    deferred.add("hang-up", TURN, run, after_s=0.01)
    async with running(deferred), asyncio.timeout(5):
        await is_done.wait()
