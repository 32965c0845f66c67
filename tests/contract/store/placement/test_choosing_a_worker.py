"""Who places a turn: the host of its files, else who asks, unless another is clearly freer."""

from __future__ import annotations

from collections import Counter

import pytest

from infra.store.placement.waiting_room import Elsewhere, NoRoom, Taken
from infra.wire.ids import WorkerId
from infra.wire.states import WorkerState
from tests.contract.store.placing import A, B, Room, conversation_of, owner_in
from tests.contract.store.scene import DONE, HOST_B, W1, W2, W3, Scene

NAMES = [WorkerId(f"host-a-{n:08x}") for n in range(4)]


@pytest.fixture
def room(scene: Scene) -> Room:
    return Room(scene)


# By load


async def test_a_worker_that_nobody_is_freer_than_takes_what_it_asks_for(room: Room) -> None:
    await room.beat(W1, used=3)
    await room.beat(W2, used=2)
    turn = await room.wait(A)

    assert await room.take(W1) == Taken(conversation_of(A, 0), turn)


async def test_a_turn_goes_to_a_worker_that_is_freer_by_more_than_one_slot(room: Room) -> None:
    await room.beat(W1, used=4)
    await room.beat(W2, used=2)
    turn = await room.wait(A)

    assert await room.take(W1) == Elsewhere(W2, turn)


async def test_a_worker_that_is_not_registered_yet_takes_what_it_asks_for(room: Room) -> None:
    await room.beat(W2)
    turn = await room.wait(A)

    assert await room.take(W1) == Taken(conversation_of(A, 0), turn)


async def test_a_full_worker_that_would_give_an_idle_conversations_place_is_the_last_choice(
    room: Room,
) -> None:
    await room.beat(W1, slots=2, used=2)
    await room.beat(W2, slots=8, used=7)
    turns = [await room.wait(A, n) for n in range(2)]

    assert await room.take(W1) == Elsewhere(W2, turns[0])
    assert await room.take(W1) == Taken(conversation_of(A, 1), turns[1])


async def test_twenty_turns_at_once_spread_over_four_workers_by_their_free_slots(
    room: Room,
) -> None:
    slots = dict(zip(NAMES, (12, 6, 6, 3), strict=True))
    for name, count in slots.items():
        await room.beat(name, slots=count)
    for n in range(20):
        await room.wait(A if n % 2 else B, n)

    placed = Counter([owner_in(await room.take(NAMES[0]), NAMES[0]) for _ in range(20)])

    assert sum(placed.values()) == 20
    for name, count in slots.items():
        assert abs(placed[name] - 20 * count / 27) <= 1.5, placed


async def test_a_heartbeat_tells_what_was_coming(room: Room) -> None:
    await room.beat(W1, slots=8, used=0)
    await room.beat(W2, slots=8, used=8)
    for n in range(3):
        await room.wait(A, n)
        await room.take(W1)
    [asked] = [w for w in await room.scene.store.workers.alive() if w.worker == W1]
    assert (asked.used, asked.coming) == (0, 3)

    await room.beat(W1, slots=8, used=3)

    [asked] = [w for w in await room.scene.store.workers.alive() if w.worker == W1]
    assert (asked.used, asked.coming) == (3, 0)


async def test_a_worker_that_put_something_back_is_full_until_its_next_heartbeat(
    room: Room,
) -> None:
    """Turns must not go to and fro between two that each believe the other has room."""
    await room.beat(W1, used=7)
    await room.beat(W2, used=0)
    await room.scene.store.room.put_back(await room.wait(A, 0), W2)
    await room.wait(B)

    assert isinstance(await room.take(W1), Taken)

    await room.beat(W2, used=0)
    assert isinstance(await room.take(W1), Elsewhere)


async def test_a_turn_is_not_given_twice_to_a_worker_that_did_nothing_with_it(room: Room) -> None:
    """It may have been killed: its heartbeat is good for 15 s, the turn should not wait as long."""
    await room.beat(W1, used=6)
    await room.beat(W2, used=0)
    turn = await room.wait(A)
    assert await room.take(W1) == Elsewhere(W2, turn)
    await room.scene.store.turns.unclaimed(older_than_ms=-1)

    assert await room.take(W1) == Taken(conversation_of(A, 0), turn)


# Who takes nothing new


@pytest.mark.parametrize("state", [WorkerState.FAILING, WorkerState.DRAINING])
async def test_a_worker_that_is_not_ready_is_passed_over(room: Room, state: WorkerState) -> None:
    await room.beat(W1, used=6)
    await room.beat(W2, used=0, state=state)
    turn = await room.wait(A)

    assert await room.take(W1) == Taken(conversation_of(A, 0), turn)


@pytest.mark.parametrize("state", [WorkerState.FAILING, WorkerState.DRAINING])
async def test_a_worker_that_is_not_ready_gets_nothing_when_it_asks(
    room: Room, state: WorkerState
) -> None:
    await room.beat(W1, state=state)
    turn = await room.wait(A)
    assert await room.take(W1) == NoRoom()

    await room.beat(W2, used=7)
    assert await room.take(W1) == Elsewhere(W2, turn)


async def test_a_host_without_memory_gets_nothing_and_another_does(room: Room) -> None:
    await room.beat(W1, used=7, memory_mb=8000)
    await room.beat(W2, used=0, memory_mb=999)
    turn = await room.wait(A)
    assert await room.take(W1) == Taken(conversation_of(A, 0), turn)

    await room.beat(W1, used=7, memory_mb=999)
    await room.beat(W2, used=0, memory_mb=8000)
    turn = await room.wait(B)
    assert await room.take(W1) == Elsewhere(W2, turn)


async def test_what_comes_counts_against_a_hosts_memory(room: Room) -> None:
    """Twenty turns between two heartbeats must not all go to the host that had room for one."""
    await room.beat(W1, slots=100, used=99, memory_mb=64_000)
    await room.beat(W2, slots=100, used=0, memory_mb=1500)
    for n in range(6):
        await room.wait(A, n)

    owners = [owner_in(await room.take(W1), W1) for _ in range(6)]

    assert owners == [W2, W2, W2, W1, W1, W1]


async def test_a_worker_whose_heartbeat_is_over_gets_nothing(room: Room) -> None:
    await room.beat(W1, used=7)
    await room.beat(W2, used=0)
    await room.scene.redis.zadd(room.keys.workers(), {W2: 1})
    turn = await room.wait(A)

    assert await room.take(W1) == Taken(conversation_of(A, 0), turn)


# By files


async def _at_home_on_b(room: Room) -> None:
    """The conversation has had a turn, and its files, on host b."""
    scene, c = room.scene, conversation_of(A, 0)
    turn = await room.wait(A)
    lease = await scene.acquire(W3, c)
    await scene.claim(lease)
    await scene.store.turns.start(lease, turn)
    await scene.store.turns.finish(lease, turn, 1, DONE, idle_timeout_s=60)
    await scene.lapse(c)


async def test_a_young_turn_goes_home_to_its_files_however_busy_that_host_is(room: Room) -> None:
    await room.beat(W1, used=0)
    await room.beat(W3, used=7, host=HOST_B)
    await _at_home_on_b(room)
    turn = await room.wait(A)

    assert await room.take(W1) == Elsewhere(W3, turn)


@pytest.mark.parametrize("trouble", ["full", "failing", "memory", "old"])
async def test_no_turn_waits_for_a_home_that_does_not_take_it(room: Room, trouble: str) -> None:
    await room.beat(W1, used=0)
    await room.beat(
        W3,
        host=HOST_B,
        used=8 if trouble == "full" else 7,
        state=WorkerState.FAILING if trouble == "failing" else WorkerState.READY,
        memory_mb=10 if trouble == "memory" else None,
    )
    await _at_home_on_b(room)
    turn = await room.wait(A)
    patience_s = -1.0 if trouble == "old" else 60.0

    assert await room.take(W1, home_patience_s=patience_s) == Taken(conversation_of(A, 0), turn)


async def test_at_home_only_a_sibling_is_preferred_for_being_freer(room: Room) -> None:
    await room.beat(W1, used=0)
    await room.beat(W3, used=6, host=HOST_B)
    await _at_home_on_b(room)
    turn = await room.wait(A)
    assert await room.take(W3, HOST_B) == Taken(conversation_of(A, 0), turn)
    await room.scene.store.room.put_back(turn, W3)

    await room.beat(W3, used=6, host=HOST_B)
    await room.beat(W2, used=1, host=HOST_B)
    assert await room.take(W3, HOST_B) == Elsewhere(W2, turn)
