"""Many turns are logged together, and what befalls one of them touches no other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import pytest
from redis.exceptions import ResponseError

from infra.store.conversations.leases import Lease
from infra.store.turns.log import Appended, TurnAppend
from infra.wire.errors import LeaseLost, StoreUnavailable, TurnLogTorn
from infra.wire.events import Notice, TextDelta, encode_event
from infra.wire.ids import ConversationKey, Fence, TurnId, WorkerId
from tests.fakes.manual_clock import ManualClock, settle
from worker.log_flusher import CALL_MAX_BYTES, CALL_MAX_TURNS, LogFlusher
from worker.turns.log_writer import TurnLogWriter

DELTA = encode_event(TextDelta(text="word"))
NOTICE = encode_event(Notice(text="something"))


@dataclass
class LogsOfPaper:
    """Appends to many logs, as a test wants them to go."""

    calls: list[dict[TurnId, list[int]]] = field(default_factory=list)
    newest: dict[TurnId, int] = field(default_factory=dict)
    lost: set[TurnId] = field(default_factory=set)
    poisoned: set[TurnId] = field(default_factory=set)
    """Those that make the script fail."""
    broken: set[TurnId] = field(default_factory=set)
    """Those whose events cannot even be sent."""
    passes: asyncio.Event = field(default_factory=asyncio.Event)

    async def append_all(self, appends: Sequence[TurnAppend]) -> list[Appended]:
        self.calls.append({append.turn: [n for n, _ in append.events] for append in appends})
        await self.passes.wait()
        if self.broken & {append.turn for append in appends}:
            raise TypeError("no bytes")
        if self.poisoned & {append.turn for append in appends}:
            raise StoreUnavailable("refused") from ResponseError("WRONGTYPE")
        return [self._append(append) for append in appends]

    def _append(self, append: TurnAppend) -> Appended:
        newest = self.newest.setdefault(append.turn, 0)
        if append.turn in self.lost:
            return LeaseLost(append.lease.conversation, append.lease.fence)
        if append.events[0][0] > newest + 1:
            return TurnLogTorn(append.turn, newest)
        self.newest[append.turn] = max(newest, append.events[-1][0])
        return self.newest[append.turn]


class Scene:
    def __init__(self, group: asyncio.TaskGroup) -> None:
        self.clock = ManualClock()
        self.logs = LogsOfPaper()
        self.logs.passes.set()
        self.flusher = LogFlusher(self.logs, self.clock)  # type: ignore[arg-type]
        self.lost: list[TurnId] = []
        self.tasks = [group.create_task(self.flusher.run())]
        self._group = group

    async def writers(self, count: int) -> list[TurnLogWriter]:
        made = []
        for i in range(count):
            lease = Lease(ConversationKey(f"{i:024x}"), WorkerId("host-1-a"), Fence(7))
            turn = TurnId(f"turn_{i}")
            writer = TurnLogWriter(self.flusher, lease, turn, on_logged=lambda _: None)
            self.tasks.append(self._group.create_task(self._run(writer)))
            made.append(writer)
        await settle()
        return made

    async def _run(self, writer: TurnLogWriter) -> None:
        try:
            await writer.run()
        except (LeaseLost, TypeError):
            self.lost.append(writer.turn)


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        scene = Scene(group)
        yield scene
        for task in scene.tasks:
            task.cancel()


async def test_all_that_is_due_goes_in_one_call(scene: Scene) -> None:
    writers = await scene.writers(20)
    for writer in writers:
        writer.add(1, NOTICE)
    await settle()
    for n in (2, 3):
        for writer in writers:
            writer.add(n, DELTA)
    await scene.clock.advance(0.3)

    assert [list(call.values()) for call in scene.logs.calls] == [[[1]] * 20, [[2, 3]] * 20]


async def test_one_call_is_under_way_and_what_comes_meanwhile_goes_with_the_next(
    scene: Scene,
) -> None:
    one, two, three = await scene.writers(3)
    scene.logs.passes.clear()
    one.add(1, NOTICE)
    await settle()
    two.add(1, NOTICE)
    one.add(2, NOTICE)
    three.add(1, NOTICE)
    await settle()
    assert len(scene.logs.calls) == 1
    scene.logs.passes.set()
    await settle()
    assert scene.logs.calls[1:] == [{two.turn: [1], one.turn: [2], three.turn: [1]}]


async def test_a_call_is_bounded_in_turns_and_in_bytes(scene: Scene) -> None:
    writers = await scene.writers(CALL_MAX_TURNS + 50)
    for writer in writers:
        writer.add(1, NOTICE)
    await settle()
    assert [len(call) for call in scene.logs.calls] == [CALL_MAX_TURNS, 50]

    scene.logs.calls.clear()
    for writer in writers[:3]:
        writer.add(2, encode_event(Notice(text="x" * (CALL_MAX_BYTES * 2 // 3))))
    await settle()
    assert [len(call) for call in scene.logs.calls] == [1, 1, 1]


async def test_a_lost_turn_and_a_torn_one_touch_no_other(scene: Scene) -> None:
    writers = await scene.writers(4)
    for writer in writers:
        writer.add(1, NOTICE)
    await settle()
    scene.logs.lost.add(writers[1].turn)
    scene.logs.newest[writers[2].turn] = 0
    for writer in writers:
        writer.add(2, NOTICE)
    await settle()

    assert scene.lost == [writers[1].turn]
    assert [scene.logs.newest[writer.turn] for writer in writers] == [2, 1, 2, 2]
    assert scene.logs.calls[-1] == {writers[2].turn: [1, 2]}, "what was lost is logged again"


async def test_a_turn_that_makes_the_script_fail_keeps_no_other_from_being_logged(
    scene: Scene,
) -> None:
    writers = await scene.writers(3)
    scene.logs.poisoned.add(writers[1].turn)
    for writer in writers:
        writer.add(1, NOTICE)
    await settle()

    assert [scene.logs.newest.get(writer.turn) for writer in writers] == [1, None, 1]
    scene.logs.poisoned.clear()
    await scene.clock.advance(3)
    assert scene.logs.newest[writers[1].turn] == 1


async def test_others_do_not_wait_for_a_turn_that_makes_the_script_fail(scene: Scene) -> None:
    writers = await scene.writers(3)
    scene.logs.poisoned.add(writers[1].turn)
    for n in (1, 2, 3):
        for writer in writers:
            writer.add(n, NOTICE)
        # No time passes: a pause for an outage would hold the others up.
        await settle()
        assert [scene.logs.newest.get(writer.turn) for writer in writers] == [n, None, n]


async def test_events_that_cannot_be_sent_end_their_own_turn_only(scene: Scene) -> None:
    writers = await scene.writers(3)
    scene.logs.broken.add(writers[1].turn)
    for n in (1, 2):
        for writer in writers:
            writer.add(n, NOTICE)
        await settle()

    assert scene.lost == [writers[1].turn]
    assert [scene.logs.newest.get(writer.turn) for writer in writers] == [2, None, 2]


async def test_a_turn_that_left_is_told_nothing_more(scene: Scene) -> None:
    [writer] = await scene.writers(1)
    scene.logs.passes.clear()
    writer.add(1, NOTICE)
    await settle()
    scene.flusher.leave(writer)
    scene.logs.passes.set()
    await settle()
    assert [n for n, _ in writer.batch()] == [1], "it may log that itself, once more"


async def test_an_answer_that_cannot_be_passed_on_ends_its_own_turn_only(scene: Scene) -> None:
    other, broken = await scene.writers(2)

    def refuse(_: int) -> None:
        raise LeaseLost(ConversationKey("c"), Fence(1))

    broken._on_logged = refuse
    for writer in (broken, other):
        writer.add(1, NOTICE)
    await settle()
    other.add(2, NOTICE)
    await settle()
    assert scene.lost == [broken.turn]
    assert scene.logs.newest[other.turn] == 2
