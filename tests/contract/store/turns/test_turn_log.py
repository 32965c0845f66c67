"""The turn log: what is in it, is in it once, in order, and never changes."""

from __future__ import annotations

import pytest

from infra.runtime.identity import new_turn_id
from infra.store.turns.log import TurnLog
from infra.wire.errors import LeaseLost, TurnLogTorn
from infra.wire.events import encode_event
from infra.wire.states import TurnState
from tests.contract.store.scene import DONE, OTHER_C, Scene, text_events


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
    lease, turn = await scene.begin()
    await scene.store.log.append(lease, turn, text_events(1, 10))

    assert list((await scene.store.log.read(turn, after=7)).events) == text_events(8, 3)
    assert list((await scene.store.log.read(turn, after=2, limit=4)).events) == text_events(3, 4)
    assert list((await scene.store.log.read(turn, after=10)).events) == []


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
