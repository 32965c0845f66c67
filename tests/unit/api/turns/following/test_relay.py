"""The relay reads the log when, and only when, live frames do not tell all."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Callable, Sequence

import pytest

from api.turns.following.relay import (
    GIVE_UP_S,
    OVERDUE_S,
    PAGE_BYTES,
    PAGE_ENTRIES,
    POSITION_S,
    Relay,
    Watch,
)
from infra.store.turns.log import LogPage
from infra.wire.errors import ErrorCode, StoreUnavailable, TurnFailed
from infra.wire.events import TextDelta, TurnEnded, encode_event
from infra.wire.frames import Frame
from infra.wire.ids import Fence, TurnId
from infra.wire.states import TurnState
from tests.fakes.manual_clock import ManualClock

TURN = TurnId("turn_1")
END = encode_event(TurnEnded(state=TurnState.DONE))


def payload(n: int) -> bytes:
    return encode_event(TextDelta(text=str(n)))


class ScriptedMailbox:
    """Live frames a test puts in; silence makes the clock pass at once."""

    sink: Callable[[Sequence[Frame]], bool] | None = None

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self._frames: list[Frame] = []
        self._is_news = False
        self.overflowed = False
        self.waits: list[float] = []

    def put(self, *numbers: int, end: int | None = None) -> None:
        said = [(n, payload(n)) for n in numbers] + ([(end, END)] if end else [])
        self._frames += [Frame(TURN, Fence(1), n, p) for n, p in said]
        self._is_news = True

    async def wait(self, timeout_s: float) -> bool:
        self.waits.append(timeout_s)
        if not self._is_news:
            self._clock.jump(timeout_s)
        await asyncio.sleep(0)
        return self._is_news

    def take(self) -> list[Frame]:
        frames, self._frames = self._frames, []
        self._is_news = self.overflowed = False
        return frames

    def overflow(self) -> None:
        self.overflowed = self._is_news = True


class ScriptedLog:
    """A log whose reads follow a list: pages, states, or being away."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self.events: dict[int, bytes] = {}
        self.state: TurnState | None = TurnState.RUNNING
        self.is_away = False
        self.reads: list[float] = []
        self.expired: list[TurnId] = []
        self.place: int | None = None
        self.asked: list[float] = []

    async def read(self, turn: TurnId, *, after: int, limit: int = PAGE_ENTRIES) -> LogPage:
        self.reads.append(self._clock.monotonic())
        if self.is_away:
            raise StoreUnavailable("away")
        page = [(n, e) for n, e in sorted(self.events.items()) if n > after][:limit]
        return LogPage(page, self.state, len(page))

    async def newest(self, turn: TurnId) -> bytes | None:
        return self.events[max(self.events)] if self.events else None

    async def position(self, turn: TurnId) -> int | None:
        self.asked.append(self._clock.monotonic())
        return self.place

    async def expire(self, turn: TurnId) -> bool:
        self.expired.append(turn)
        self.events[len(self.events) + 1] = END
        self.state = TurnState.EXPIRED
        return True


class Bench:
    """A relay between a scripted mailbox and a scripted log."""

    def __init__(self, *, is_fresh: bool = False) -> None:
        self.clock = ManualClock()
        self.mailbox = ScriptedMailbox(self.clock)
        self.log = ScriptedLog(self.clock)
        self.relay = Relay(
            TURN,
            mailbox=self.mailbox,
            turn_log=self.log,
            turns=self.log,
            clock=self.clock,
            queue_timeout_s=30,
            deadline_s=100,
            is_fresh=is_fresh,
        )

    async def all(self) -> list[bytes]:
        return [event async for events in self.relay for event in events]

    async def wait_in_vain(self) -> None:
        """Until the relay gives the silent turn up."""
        with pytest.raises(TurnFailed):
            await anext(self.relay)


async def test_live_frames_flow_with_one_look_at_the_log() -> None:
    bench = Bench()
    bench.mailbox.put(1, 2, end=3)
    assert await bench.all() == [payload(1), payload(2), END]
    assert len(bench.log.reads) == 1


async def test_fresh_turn_needs_no_look_at_the_log_while_frames_come() -> None:
    bench = Bench(is_fresh=True)
    bench.mailbox.put(1, 2, end=3)
    assert await bench.all() == [payload(1), payload(2), END]
    assert bench.log.reads == []


async def test_fresh_turn_whose_first_frame_was_lost_is_read_at_once() -> None:
    bench = Bench(is_fresh=True)
    bench.mailbox.put(2, end=3)
    bench.log.events = {1: payload(1)}
    began = bench.clock.monotonic()
    assert await bench.all() == [payload(1), payload(2), END]
    assert bench.clock.monotonic() == began


async def test_turn_that_ended_before_the_relay_came_is_read_from_the_log() -> None:
    bench = Bench()
    bench.log.events = {1: payload(1), 2: END}
    bench.log.state = TurnState.DONE
    assert await bench.all() == [payload(1), END]
    assert bench.mailbox.waits == []


async def test_long_log_is_read_page_after_page_without_waiting() -> None:
    bench = Bench()
    last = PAGE_ENTRIES * 2 + 7
    bench.log.events = {n: payload(n) for n in range(1, last)} | {last: END}
    assert len(await bench.all()) == last
    assert bench.mailbox.waits == []


async def test_gap_sends_the_relay_to_the_log() -> None:
    bench = Bench()
    bench.mailbox.put(1, 3, end=4)
    assert await anext(bench.relay) == [payload(1)]
    bench.log.events = {1: payload(1), 2: payload(2)}
    before = bench.clock.monotonic()
    assert await bench.all() == [payload(2), payload(3), END]
    assert bench.clock.monotonic() - before < 0.1


async def test_log_that_is_late_is_asked_again_soon() -> None:
    bench = Bench()
    bench.mailbox.put(1, 3)
    await anext(bench.relay)
    reads = len(bench.log.reads)
    await bench.wait_in_vain()
    later = [b - a for a, b in itertools.pairwise(bench.log.reads[reads:])][:4]
    assert later == pytest.approx([0.05, 0.1, 0.2, 0.4])


async def test_silence_is_checked_after_a_second_and_then_ever_more_seldom() -> None:
    bench = Bench()
    await bench.wait_in_vain()
    assert bench.mailbox.waits[0] == pytest.approx(1.0)
    assert bench.mailbox.waits[1] == pytest.approx(1.5)
    assert max(bench.mailbox.waits) == pytest.approx(5.0)


async def test_deaf_relay_follows_the_log_at_its_rhythm() -> None:
    bench = Bench()
    bench.log.events = {1: payload(1)}
    await anext(bench.relay)
    bench.log.events[2] = payload(2)
    await anext(bench.relay)
    assert bench.mailbox.waits == pytest.approx([0.25])


async def test_overflow_is_made_up_from_the_log() -> None:
    bench = Bench()
    bench.mailbox.put(1)
    assert await anext(bench.relay) == [payload(1)]
    bench.mailbox.overflow()
    bench.log.events = {1: payload(1), 2: payload(2), 3: END}
    assert await bench.all() == [payload(2), END]


async def test_turn_that_redis_does_not_know_ends_visibly() -> None:
    bench = Bench()
    bench.log.state = None
    with pytest.raises(TurnFailed) as failed:
        await anext(bench.relay)
    assert failed.value.code is ErrorCode.LOG_LOST


async def test_ended_turn_without_an_end_event_ends_visibly() -> None:
    bench = Bench()
    bench.log.state = TurnState.DONE
    with pytest.raises(TurnFailed) as failed:
        await anext(bench.relay)
    assert failed.value.code is ErrorCode.LOG_LOST


async def test_end_logged_behind_the_live_frames_is_the_turns_end() -> None:
    """A delete by force logs the end after what is in the log, and live frames are ahead of that.

    The relay told `turn_log_lost` instead, as no event came after its cursor any more.
    """
    bench = Bench()
    bench.mailbox.put(1, 2, 3)
    assert await anext(bench.relay) == [payload(1), payload(2), payload(3)]
    bench.log.events = {1: payload(1), 2: END}
    bench.log.state = TurnState.CANCELLED
    assert await bench.all() == [END]
    assert bench.relay.is_ended
    assert bench.relay.cursor == 3


async def test_place_in_the_queue_is_asked_for_ever_more_seldom() -> None:
    bench = Bench()
    bench.relay.is_place_wanted = True
    bench.log.state = TurnState.QUEUED
    bench.log.place = 3
    moved = []
    while not (events := await bench.relay.next(until_s=math.inf)):
        moved.append(bench.relay.ahead)
    assert events == [END]
    assert moved == [3]
    pauses = [b - a for a, b in itertools.pairwise(bench.log.asked)]
    assert min(pauses) >= POSITION_S
    assert len(bench.log.asked) <= 6
    assert bench.relay.ahead is None


async def test_place_in_the_queue_is_told_when_it_changes() -> None:
    bench = Bench()
    bench.relay.is_place_wanted = True
    bench.log.state = TurnState.QUEUED
    told = []
    for place in (2, 1, 0):
        bench.log.place = place
        assert await bench.relay.next(until_s=math.inf) == []
        told.append(bench.relay.ahead)
    assert told == [2, 1, 0]
    bench.log.state = TurnState.RUNNING
    bench.mailbox.put(1)
    assert await bench.relay.next(until_s=math.inf) == [payload(1)]
    assert bench.relay.ahead is None


async def test_nobody_asks_for_a_place_that_is_not_shown() -> None:
    bench = Bench()
    bench.log.state = TurnState.QUEUED
    bench.log.place = 3
    assert await bench.all() == [END]
    assert bench.log.asked == []


async def test_redis_may_be_away_for_a_while() -> None:
    bench = Bench()
    bench.log.is_away = True
    bench.mailbox.put(1)
    assert await anext(bench.relay) == [payload(1)]
    bench.log.is_away = False
    bench.log.events = {1: payload(1), 2: END}
    assert await bench.all() == [END]


async def test_redis_that_stays_away_fails_the_turn_visibly() -> None:
    bench = Bench()
    bench.log.is_away = True
    began = bench.clock.monotonic()
    with pytest.raises(TurnFailed) as failed:
        await anext(bench.relay)
    assert failed.value.code is ErrorCode.STORE_UNAVAILABLE
    assert GIVE_UP_S < bench.clock.monotonic() - began < GIVE_UP_S + 5


async def test_turn_nobody_starts_expires_even_without_any_worker() -> None:
    bench = Bench()
    bench.log.state = TurnState.QUEUED
    assert await bench.all() == [END]
    assert len(bench.log.expired) == 1
    assert 30 < bench.clock.monotonic() - bench.log.reads[0] < 40


async def test_turn_far_beyond_its_deadline_is_given_up() -> None:
    bench = Bench()
    began = bench.clock.monotonic()
    with pytest.raises(TurnFailed) as failed:
        await anext(bench.relay)
    assert failed.value.code is ErrorCode.TURN_TIMED_OUT
    assert bench.clock.monotonic() - began > 100 + OVERDUE_S


async def test_stop_interrupts_with_its_error() -> None:
    bench = Bench()
    bench.relay.stop(TurnFailed("bye", code=ErrorCode.SHUTTING_DOWN))
    with pytest.raises(TurnFailed) as failed:
        await anext(bench.relay)
    assert failed.value.code is ErrorCode.SHUTTING_DOWN
    assert bench.mailbox.overflowed


def test_lost_last_frame_is_looked_for_soon() -> None:
    watch = Watch(0.0)
    watch.read(0.0, found=0, gap=False)
    watch.heard(0.5, gap=False, overflowed=True)
    assert watch.due == 0.5
    watch.read(0.5, found=0, gap=False)
    assert watch.due == pytest.approx(0.55)


def test_steady_live_frames_keep_the_log_unread() -> None:
    watch = Watch(0.0)
    watch.read(0.0, found=0, gap=False)
    for now in range(1, 100):
        watch.heard(now / 10, gap=False, overflowed=False)
        assert watch.due > now / 10 + 0.5


async def test_pages_of_large_events_are_small() -> None:
    """A reader that is stuck holds one page: it must not be five hundred large events."""
    bench = Bench()
    large = encode_event(TextDelta(text="x" * 32_000))
    bench.log.events = dict.fromkeys(range(1, 400), large) | {400: END}
    bench.log.state = TurnState.DONE
    pages = []
    while events := await bench.relay.next():
        pages.append(sum(map(len, events)))
    assert sum(pages) > 399 * len(large)
    assert max(pages[1:]) <= PAGE_BYTES
    assert bench.mailbox.waits == []
