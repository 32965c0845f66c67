"""The turn log: what is in it, is in it once, in order, and never changes."""

from __future__ import annotations

import pytest

from infra.runtime.identity import new_turn_id
from infra.store.turns.log import TurnAppend, TurnLog
from infra.store.turns.runs import RUN_MAX_BYTES
from infra.wire.errors import LeaseLost, TurnLogTorn
from infra.wire.events import encode_event
from infra.wire.ids import ConversationKey
from infra.wire.states import TurnState
from tests.contract.store.scene import DONE, OTHER_C, W2, Scene, text_events


async def test_events_come_out_as_they_went_in(scene: Scene) -> None:
    lease, turn = await scene.begin()
    events = [(1, b'{"type":"text","text":"\\u00e4 \\"quoted\\""}'), (2, "ü \n \x00".encode())]

    assert await scene.store.log.append(lease, turn, events) == 2

    page = await scene.store.log.read(turn, after=0)
    assert list(page.events) == events
    assert page.state is TurnState.RUNNING


async def test_numbers_that_are_there_are_skipped(scene: Scene) -> None:
    lease, turn = await scene.begin()
    await scene.store.log.append(lease, turn, text_events(1, 3))

    assert await scene.store.log.append(lease, turn, [(2, b"other"), *text_events(3, 3)]) == 5

    assert list((await scene.store.log.read(turn, after=0)).events) == text_events(1, 5)


async def test_a_log_never_has_a_hole(scene: Scene) -> None:
    """A failover may have lost what was logged; its writer learns of it and puts it back."""
    lease, turn = await scene.begin()
    await scene.store.log.append(lease, turn, text_events(1, 3))

    with pytest.raises(TurnLogTorn) as torn:
        await scene.store.log.append(lease, turn, text_events(5, 2))
    assert torn.value.newest == 3
    assert await scene.store.log.append(lease, turn, text_events(4, 3)) == 6

    assert list((await scene.store.log.read(turn, after=0)).events) == text_events(1, 6)


async def test_an_end_leaves_no_hole_either(scene: Scene) -> None:
    lease, turn = await scene.begin()
    await scene.store.log.append(lease, turn, text_events(1, 3))

    with pytest.raises(TurnLogTorn) as torn:
        await scene.store.turns.finish(lease, turn, 5, DONE, idle_timeout_s=60)
    assert torn.value.newest == 3
    record = await scene.store.turns.get(turn)
    assert record
    assert record.state is TurnState.RUNNING
    await scene.store.log.append(lease, turn, text_events(4, 1))
    await scene.store.turns.finish(lease, turn, 5, DONE, idle_timeout_s=60)

    record = await scene.store.turns.get(turn)
    assert record
    assert (record.state, record.seq) == (TurnState.DONE, 5)


async def test_a_reader_goes_on_from_its_cursor_page_by_page(scene: Scene) -> None:
    log = scene.store.log
    lease, turn = await scene.begin()
    for first in range(1, 10, 3):
        await log.append(lease, turn, text_events(first, 3))

    assert list((await log.read(turn, after=7)).events) == text_events(8, 2)
    page = await log.read(turn, after=1, limit=2)
    assert (list(page.events), page.entries) == (text_events(2, 5), 2)
    assert list((await log.read(turn, after=9)).events) == []
    assert await log.oldest(turn) == 1
    assert await log.newest(turn) == text_events(9, 1)[0][1]


async def test_a_run_of_events_is_one_entry_of_the_log(scene: Scene) -> None:
    lease, turn = await scene.begin()
    await scene.store.log.append(lease, turn, text_events(1, 12))
    await scene.store.log.append(lease, turn, text_events(13, 1))
    await scene.store.turns.finish(lease, turn, 14, DONE, idle_timeout_s=60)

    entries = await scene.redis.xrange(scene.keys.turn_events(turn))
    joined = b"\n".join(payload for _, payload in text_events(1, 12))
    assert entries == [
        (b"12-0", {b"r": joined}),
        (b"13-0", {b"e": text_events(13, 1)[0][1]}),
        (b"14-0", {b"e": encode_event(DONE)}),
    ]


async def test_a_log_of_an_earlier_build_is_read_and_continued(scene: Scene) -> None:
    """It has an entry for each event."""
    lease, turn = await scene.begin()
    for n, payload in text_events(1, 3):
        await scene.redis.xadd(scene.keys.turn_events(turn), {"e": payload}, id=f"{n}-0")
    await scene.redis.hset(scene.keys.turn(turn), "seq", "3")  # type: ignore[misc]
    await scene.store.log.append(lease, turn, text_events(3, 3))

    assert list((await scene.store.log.read(turn, after=1)).events) == text_events(2, 4)
    assert await scene.store.log.oldest(turn) == 1


async def test_a_retry_that_overlaps_the_log_is_cut_at_the_first_number_it_lacks(
    scene: Scene,
) -> None:
    lease, turn = await scene.begin()
    for first, count, newest in ((1, 4, 4), (1, 4, 4), (2, 3, 4), (3, 3, 5), (1, 9, 9), (9, 2, 10)):
        assert await scene.store.log.append(lease, turn, text_events(first, count)) == newest

    page = await scene.store.log.read(turn, after=0)
    assert list(page.events) == text_events(1, 10)
    assert page.entries == 4
    record = await scene.store.turns.get(turn)
    assert record
    said = sum(len(payload) for _, payload in text_events(1, 10))
    assert (record.seq, record.said_bytes) == (10, said), "each event is counted once"


async def test_an_append_of_many_turns_answers_for_each_of_them(scene: Scene) -> None:
    """A lost turn, a torn one and one that has ended touch no other."""
    turns = {}
    for name in ("whole", "lost", "torn", "ended", "again"):
        c = ConversationKey(name.ljust(24, "0"))
        turns[name] = await scene.begin(c=c)
        await scene.store.log.append(*turns[name], text_events(1, 2))
    lease, _ = turns["lost"]
    await scene.lapse(lease.conversation)
    await scene.acquire(W2, lease.conversation)
    await scene.store.turns.finish(*turns["ended"], 3, DONE, idle_timeout_s=60)

    firsts = {"whole": 3, "lost": 3, "torn": 4, "ended": 3, "again": 2}
    answers = await scene.store.log.append_all(
        [TurnAppend(*turns[name], text_events(first, 2)) for name, first in firsts.items()]
    )

    assert [type(answer) for answer in answers] == [int, LeaseLost, TurnLogTorn, int, int]
    assert (answers[0], answers[3], answers[4]) == (4, 3, 3)
    counts = {"whole": 4, "lost": 2, "torn": 2, "ended": 3, "again": 3}
    for name, count in counts.items():
        assert len((await scene.store.log.read(turns[name][1], after=0)).events) == count


async def test_long_runs_are_cut_and_a_long_event_is_a_run_of_its_own(scene: Scene) -> None:
    lease, turn = await scene.begin()
    sizes = (10, RUN_MAX_BYTES - 20, 30, RUN_MAX_BYTES + 1, 5, 5)
    events = [(n, b"x" * size) for n, size in enumerate(sizes, 1)]
    assert await scene.store.log.append(lease, turn, events) == 6

    page = await scene.store.log.read(turn, after=0)
    assert list(page.events) == events
    assert page.entries == 4


async def test_the_first_event_makes_a_claimed_turn_run(scene: Scene) -> None:
    turn = await scene.submit()
    lease = await scene.acquire()
    await scene.claim(lease)

    await scene.store.log.append(lease, turn, text_events(1, 1))

    assert await scene.turn_state(turn) is TurnState.RUNNING
    assert await scene.redis.pttl(scene.keys.turn_events(turn)) > 0


async def test_appending_nothing_changes_nothing(scene: Scene) -> None:
    turn = await scene.submit()
    lease = await scene.acquire()
    await scene.claim(lease)

    assert await scene.store.log.append(lease, turn, []) == 0
    assert await scene.turn_state(turn) is TurnState.CLAIMED


async def test_an_ended_turn_takes_nothing_more(scene: Scene) -> None:
    lease, turn = await scene.begin()
    await scene.store.turns.finish(lease, turn, 1, DONE, idle_timeout_s=60)

    assert await scene.store.log.append(lease, turn, text_events(2, 2)) == 1

    page = await scene.store.log.read(turn, after=0)
    assert (list(page.events), page.state) == ([(1, encode_event(DONE))], TurnState.DONE)


async def test_an_owner_cannot_write_into_a_turn_of_another_conversation(scene: Scene) -> None:
    _, turn = await scene.begin()
    other = await scene.acquire(c=OTHER_C)

    with pytest.raises(LeaseLost):
        await scene.store.log.append(other, turn, text_events(1, 1))


async def test_an_owner_cannot_write_into_a_turn_it_has_not_claimed(scene: Scene) -> None:
    turn = await scene.submit()
    lease = await scene.acquire()

    with pytest.raises(LeaseLost):
        await scene.store.log.append(lease, turn, text_events(1, 1))


async def test_an_unknown_turn_has_an_empty_log_and_no_state(scene: Scene) -> None:
    page = await scene.store.log.read(new_turn_id(), after=0)

    assert list(page.events) == []
    assert page.state is None


async def test_a_log_is_bounded_and_a_reader_sees_the_gap(scene: Scene) -> None:
    log = TurnLog(scene.redis, scene.keys, events_max=100)
    lease, turn = await scene.begin()
    for first in range(1, 1000, 100):
        await log.append(lease, turn, text_events(first, 100))

    events = (await log.read(turn, after=0)).events
    assert events[0][0] > 1
    assert events[-1][0] == 1000
    assert len(events) <= 300
