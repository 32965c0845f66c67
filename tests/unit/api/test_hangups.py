"""Hang-ups are carried out beside the request, and again while Redis is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from api.drain import Drain
from api.hangups import GIVE_UP_S, Hangups
from infra.wire.errors import StoreUnavailable, TurnNotFound
from infra.wire.ids import TenantId, TurnId
from infra.wire.states import TurnState
from tests.fakes.manual_clock import ManualClock, settle

TURN = TurnId("chatcmpl-1")
TENANT = TenantId("t")


class FlakyCanceller:
    """Cancels, after being away as often as told."""

    def __init__(self, *, away: int = 0, is_unknown: bool = False) -> None:
        self.away = away
        self.is_unknown = is_unknown
        self.calls: list[TurnId] = []

    async def cancel(self, turn: TurnId, *, tenant: TenantId, reason: str) -> TurnState:
        self.calls.append(turn)
        if len(self.calls) <= self.away:
            raise StoreUnavailable("away")
        if self.is_unknown:
            raise TurnNotFound(turn)
        return TurnState.CANCELLED


@asynccontextmanager
async def running(hangups: Hangups) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        loop = group.create_task(hangups.run())
        yield
        loop.cancel()


async def test_hang_up_cancels_the_turn() -> None:
    turns = FlakyCanceller()
    hangups = Hangups(turns, ManualClock())
    async with running(hangups):
        hangups.tell(TURN, TENANT)
        await hangups.settled()
    assert turns.calls == [TURN]


async def test_hang_up_is_tried_again_while_redis_is_away() -> None:
    clock = ManualClock()
    turns = FlakyCanceller(away=3)
    hangups = Hangups(turns, clock)
    async with running(hangups):
        hangups.tell(TURN, TENANT)
        await clock.advance(5)
        await hangups.settled()
    assert len(turns.calls) == 4


async def test_hang_up_is_given_up_after_a_while() -> None:
    clock = ManualClock()
    turns = FlakyCanceller(away=10**6)
    hangups = Hangups(turns, clock)
    async with running(hangups):
        hangups.tell(TURN, TENANT)
        await clock.advance(GIVE_UP_S + 2)
        await hangups.settled()
        called = len(turns.calls)
        await clock.advance(10)
        await settle()
    assert len(turns.calls) == called


async def test_turn_that_is_gone_needs_no_cancelling() -> None:
    hangups = Hangups(FlakyCanceller(is_unknown=True), ManualClock())
    async with running(hangups):
        hangups.tell(TURN, TENANT)
        await hangups.settled()


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
