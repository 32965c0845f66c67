"""When events are logged, what is acknowledged, and what happens while Redis is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from infra.store.conversations.leases import Lease
from infra.store.turns.log import Appended, TurnAppend
from infra.wire.errors import (
    ErrorCode,
    LeaseLost,
    StoreUnavailable,
    TenantHoldsTooMuch,
    TurnLogTorn,
)
from infra.wire.events import Notice, TextDelta, encode_event
from infra.wire.ids import ConversationKey, Fence, TurnId, WorkerId
from tests.fakes.manual_clock import ManualClock, settle
from worker.log_flusher import LogFlusher
from worker.turns.log_writer import (
    BATCH_MAX_EVENTS,
    KEPT_MAX_BYTES,
    KEPT_MAX_EVENTS,
    TurnLogWriter,
)

LEASE = Lease(ConversationKey("c" * 24), WorkerId("host-1-a"), Fence(7))
TURN = TurnId("turn_1")
DELTA = encode_event(TextDelta(text="word"))
NOTICE = encode_event(Notice(text="something"))


class LogOfPaper:
    """Appends, as a test wants them to go."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.is_away = False
        self.is_lost = False
        self.is_full = False
        self.newest = 0
        self.passes = asyncio.Event()
        self.passes.set()

    def lose_after(self, n: int) -> None:
        """A failover: what came after this number had not reached the replica."""
        self.newest = n

    async def append_all(self, appends: Sequence[TurnAppend]) -> list[Appended]:
        await asyncio.sleep(0)
        await self.passes.wait()
        if self.is_away:
            raise StoreUnavailable("away")
        [append] = appends
        return [self._append(append.lease, append.turn, append.events)]

    def _append(self, lease: Lease, turn: TurnId, events: Sequence[tuple[int, bytes]]) -> Appended:
        if self.is_lost:
            return LeaseLost(lease.conversation, lease.fence)
        if events[0][0] > self.newest + 1:
            return TurnLogTorn(turn, self.newest)
        if self.is_full:
            return TenantHoldsTooMuch(turn, self.newest)
        self.batches.append([n for n, _ in events])
        self.newest = events[-1][0]
        return self.newest

    async def finish(self, n: int, broken: ErrorCode | None) -> str:
        if n > self.newest + 1:
            raise TurnLogTorn(TURN, self.newest)
        self.newest = n
        return broken.value if broken else "whole"


class Scene:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.log = LogOfPaper()
        self.acknowledged: list[int] = []
        self.torn = asyncio.Event()
        self.flusher = LogFlusher(self.log, self.clock)  # type: ignore[arg-type]
        self.writer = TurnLogWriter(
            self.flusher,
            LEASE,
            TURN,
            on_logged=self.acknowledged.append,
            on_broken=self._break,
            pending_max_bytes=1000,
        )

    def _break(self, _: ErrorCode) -> None:
        self.torn.set()

    def add(self, first: int, last: int, payload: bytes = DELTA) -> None:
        for n in range(first, last + 1):
            self.writer.add(n, payload)


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    scene = Scene()
    async with asyncio.TaskGroup() as group:
        flushing = group.create_task(scene.flusher.run())
        writing = group.create_task(scene.writer.run())
        await settle()
        yield scene
        writing.cancel()
        flushing.cancel()


async def test_the_first_event_is_logged_at_once(scene: Scene) -> None:
    scene.add(1, 1)
    await settle()
    assert scene.log.batches == [[1]]
    assert scene.acknowledged == [1]


async def test_deltas_are_logged_together_after_a_quarter_second(scene: Scene) -> None:
    scene.add(1, 1)
    await settle()
    scene.add(2, 3)
    await scene.clock.advance(0.2)
    scene.add(4, 4)
    assert scene.log.batches == [[1]]
    await scene.clock.advance(0.06)
    assert scene.log.batches == [[1], [2, 3, 4]]


async def test_other_events_take_the_waiting_deltas_along_at_once(scene: Scene) -> None:
    scene.add(1, 1)
    await settle()
    scene.add(2, 3)
    scene.add(4, 4, NOTICE)
    await settle()
    assert scene.log.batches == [[1], [2, 3, 4]]


async def test_nothing_is_acknowledged_before_it_is_logged(scene: Scene) -> None:
    scene.log.is_away = True
    scene.add(1, 5)
    await scene.clock.advance(3)
    assert scene.acknowledged == []

    scene.log.is_away = False
    await scene.clock.advance(3)

    assert scene.log.batches == [[1, 2, 3, 4, 5]]
    assert scene.acknowledged == [5]


async def test_a_full_writer_says_so_until_redis_is_back(scene: Scene) -> None:
    scene.log.is_away = True
    scene.add(1, 200)
    assert scene.writer.is_full
    scene.log.is_away = False
    await settle()
    assert not scene.writer.is_full


async def test_a_long_backlog_goes_out_in_batches_without_a_pause(scene: Scene) -> None:
    scene.add(1, BATCH_MAX_EVENTS * 2 + 1)
    await settle()
    assert [len(batch) for batch in scene.log.batches] == [BATCH_MAX_EVENTS, BATCH_MAX_EVENTS, 1]


async def test_a_flush_logs_what_waits_without_the_delay(scene: Scene) -> None:
    scene.add(1, 1)
    await settle()
    scene.add(2, 2)
    await scene.writer.flush()
    assert scene.log.batches == [[1], [2]]


async def test_flushing_nothing_returns_at_once(scene: Scene) -> None:
    await scene.writer.flush()


async def test_events_that_come_while_an_append_is_under_way_follow_it(scene: Scene) -> None:
    scene.add(1, 1)
    await asyncio.sleep(0)
    scene.add(2, 2)
    await scene.clock.advance(0.3)
    assert [n for batch in scene.log.batches for n in batch] == [1, 2]


async def test_a_lost_lease_ends_the_writer() -> None:
    scene = Scene()
    scene.log.is_lost = True
    scene.add(1, 1)
    async with asyncio.TaskGroup() as group:
        flushing = group.create_task(scene.flusher.run())
        with pytest.raises(LeaseLost):
            await scene.writer.run()
        flushing.cancel()


async def test_what_waits_when_the_writer_ends_is_logged_once_more(scene: Scene) -> None:
    scene.add(1, 1)
    await settle()
    scene.log.is_away = True
    scene.add(2, 2, NOTICE)
    await settle()
    scene.flusher.leave(scene.writer)
    with pytest.raises(StoreUnavailable):
        await scene.writer.append_rest()

    scene.log.is_away = False
    await scene.writer.append_rest()
    await scene.clock.advance(3)

    assert scene.log.batches == [[1], [2]]


async def test_a_batch_that_was_settled_before_is_not_settled_again(scene: Scene) -> None:
    """A call that was under way when its turn was given up brings its answer late."""
    scene.add(1, 3)
    batch = scene.writer.batch()
    await settle()
    scene.add(4, 4)

    scene.writer.settle(batch, 3)

    await scene.clock.advance(0.3)
    assert scene.log.batches == [[1, 2, 3], [4]]


async def test_deltas_that_come_while_an_append_is_under_way_wait_for_others(scene: Scene) -> None:
    scene.add(1, 1)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    scene.add(2, 2)
    await settle()
    scene.add(3, 3)
    await scene.clock.advance(0.3)
    assert scene.log.batches == [[1], [2, 3]]


async def test_what_a_failover_lost_of_the_log_is_logged_again(scene: Scene) -> None:
    scene.add(1, 6, NOTICE)
    await settle()
    scene.log.lose_after(4)
    scene.log.batches.clear()

    scene.add(7, 7, NOTICE)
    await settle()

    assert scene.log.batches == [[5, 6, 7]]
    assert scene.acknowledged[-1] == 7
    assert not scene.torn.is_set()

    scene.log.lose_after(2)
    scene.add(8, 8, NOTICE)
    await settle()
    assert scene.log.batches == [[5, 6, 7], [3, 4, 5, 6, 7, 8]]


async def test_a_log_that_lost_more_than_is_held_takes_nothing_more(scene: Scene) -> None:
    for n in range(1, KEPT_MAX_EVENTS + 10):
        scene.add(n, n, NOTICE)
        await settle()
    scene.log.lose_after(5)
    scene.log.batches.clear()

    scene.add(KEPT_MAX_EVENTS + 10, KEPT_MAX_EVENTS + 20, NOTICE)
    await settle()
    scene.add(KEPT_MAX_EVENTS + 21, KEPT_MAX_EVENTS + 30, NOTICE)
    async with asyncio.timeout(5):
        await scene.writer.flush()

    assert scene.torn.is_set()
    assert scene.log.batches == []


async def test_an_end_does_not_wait_for_the_answer_of_an_append_before_it(scene: Scene) -> None:
    scene.add(1, 2, NOTICE)
    await settle()
    scene.log.passes.clear()
    scene.add(3, 3, NOTICE)
    await settle()
    ended: list[int] = []

    async def finish(n: int, broken: ErrorCode | None) -> str:
        ended.append(n)
        scene.log.passes.set()
        if len(ended) == 1:
            raise TurnLogTorn(TURN, 2)  # As if the append had failed.
        return await scene.log.finish(n, broken)

    assert await scene.writer.finish(finish, 4) == "whole"
    assert ended == [4, 4]
    assert scene.log.batches == [[1, 2], [3]]
    assert scene.log.newest == 4


async def test_an_end_that_overtakes_an_append_does_not_take_its_log_for_damaged(
    scene: Scene,
) -> None:
    """A long append goes over another connection, and more of it is logged than is kept."""
    await settle()
    scene.log.passes.clear()
    long = encode_event(Notice(text="x" * 1000))
    events = KEPT_MAX_BYTES // 1000 + 50
    scene.add(1, events, long)
    await settle()
    ended: list[int] = []

    async def finish(n: int, broken: ErrorCode | None) -> str:
        ended.append(n)
        if len(ended) == 1:
            scene.log.passes.set()
            await settle()
            raise TurnLogTorn(TURN, 0)
        return await scene.log.finish(n, broken)

    assert await scene.writer.finish(finish, events + 1) == "whole"
    assert not scene.torn.is_set()
    assert scene.log.newest == events + 1


async def test_an_end_waits_for_events_that_nobody_was_asked_to_log(scene: Scene) -> None:
    scene.add(1, 1)
    await settle()
    scene.add(2, 2)
    assert await scene.writer.finish(scene.log.finish, 3) == "whole"
    assert scene.log.batches == [[1], [2]]


async def test_an_end_goes_behind_what_a_failover_took(scene: Scene) -> None:
    scene.add(1, 6, NOTICE)
    await settle()
    scene.log.lose_after(4)

    assert await scene.writer.finish(scene.log.finish, 7) == "whole"

    assert scene.log.batches[-1] == [5, 6]
    assert scene.log.newest == 7


async def test_an_end_of_a_log_that_cannot_be_put_back_stands_where_it_was_torn(
    scene: Scene,
) -> None:
    for n in range(1, KEPT_MAX_EVENTS + 10):
        scene.add(n, n, NOTICE)
        await settle()
    scene.log.lose_after(5)
    scene.log.batches.clear()

    assert await scene.writer.finish(scene.log.finish, KEPT_MAX_EVENTS + 10) == "turn_log_lost"

    assert scene.torn.is_set()
    assert scene.log.batches == []
    assert scene.log.newest == 6
