"""The starts of a host: how many at once, and for how long each counts."""

from __future__ import annotations

import pytest

from infra.store.placement.waiting_room import Elsewhere, NoRoom, Taken
from infra.wire.ids import ConversationKey, HostId
from tests.contract.store.placing import A, B, Room, conversation_of
from tests.contract.store.scene import HOST_A, HOST_B, OTHER_C, TENANT, W1, W2, W3, C, Scene

THIRD = ConversationKey("e" * 24)


@pytest.fixture
def room(scene: Scene) -> Room:
    return Room(scene)


async def begun(scene: Scene, c: ConversationKey, host: HostId = HOST_A, *, most: int = 1) -> bool:
    return await scene.store.starts.begin(c, host, most=most, life_s=60.0)


async def test_a_host_starts_so_many_at_once_and_each_host_its_own(scene: Scene) -> None:
    for c in (C, OTHER_C):
        await scene.store.leases.acquire(c, W1, HOST_A)

    assert await begun(scene, C, most=2)
    assert await begun(scene, OTHER_C, most=2)
    assert not await begun(scene, THIRD, most=2)
    assert await begun(scene, THIRD, HOST_B, most=2)
    assert await begun(scene, C, most=2), "asked again after a lost answer"

    await scene.store.starts.end(C, HOST_A)
    assert await begun(scene, THIRD, most=2)


async def test_a_start_counts_no_longer_than_its_owner_lives(scene: Scene) -> None:
    await scene.store.leases.acquire(C, W1, HOST_A)
    assert await begun(scene, C)
    assert not await begun(scene, OTHER_C)

    await scene.redis.delete(scene.keys.lease(C))

    assert await begun(scene, OTHER_C)


async def test_a_start_that_is_kept_counts_on_and_one_that_is_not_ceases_to(scene: Scene) -> None:
    """An agent may try for minutes to start its CLI; the time set for it was over before that."""
    for c in (C, OTHER_C):
        await scene.store.leases.acquire(c, W1, HOST_A)
        assert await begun(scene, c, most=2)
    starts = scene.keys.host_starts(HOST_A)
    # Their time is over.
    await scene.redis.zadd(starts, {C: 1, OTHER_C: 1})

    await scene.store.starts.keep([C], HOST_A, life_s=60.0)

    assert not await begun(scene, THIRD, most=1)
    assert await begun(scene, THIRD, most=2)
    assert sorted(await scene.redis.zrange(starts, 0, -1)) == [C.encode(), THIRD.encode()]


async def test_a_start_that_is_kept_counts_no_longer_than_its_owner_lives_either(
    scene: Scene,
) -> None:
    await scene.store.leases.acquire(C, W1, HOST_A)
    await begun(scene, C)
    await scene.redis.delete(scene.keys.lease(C))

    await scene.store.starts.keep([C], HOST_A, life_s=60.0)

    assert await begun(scene, OTHER_C)


async def test_a_turn_given_to_a_host_counts_as_a_start_at_once(room: Room) -> None:
    await room.beat(W1, starts_max=2)
    turns = [await room.wait(tenant, n) for n in range(2) for tenant in (A, B)]

    assert [await room.take(W1) for _ in range(3)] == [
        Taken(conversation_of(A, 0), turns[0]),
        Taken(conversation_of(B, 0), turns[1]),
        NoRoom(),
    ]

    await room.scene.store.starts.end(conversation_of(A, 0), HOST_A)
    assert await room.take(W1) == Taken(conversation_of(A, 1), turns[2])


async def test_what_is_put_back_counts_no_longer(room: Room) -> None:
    await room.beat(W1, starts_max=1)
    turn = await room.wait(A)
    await room.taken(W1)

    await room.scene.store.room.put_back(turn, W1)
    await room.beat(W1, starts_max=1)

    assert await room.taken(W1) == turn


async def test_a_host_that_may_start_no_more_leaves_the_rest_to_another(room: Room) -> None:
    await room.beat(W1, starts_max=1)
    await room.beat(W2, starts_max=1)
    await room.beat(W3, host=HOST_B, starts_max=1, used=7)
    turns = [await room.wait(A, n) for n in range(3)]

    assert isinstance(await room.take(W1), Taken)
    assert await room.take(W1) == Elsewhere(W3, turns[1])
    assert await room.take(W2) == NoRoom()


async def test_a_container_that_is_there_needs_no_start(room: Room) -> None:
    """Its worker was deployed anew: a warm conversation does not wait for a burst of cold ones."""
    scene = room.scene
    await scene.begin(W1)
    await scene.redis.hdel(scene.keys.conversation(C), "turn")  # type: ignore[misc]
    await scene.lapse()
    await scene.store.leases.acquire(OTHER_C, W1, HOST_A)
    assert await begun(scene, OTHER_C)
    await room.beat(W1, starts_max=1)
    await room.wait(A)
    assert await room.take(W1) == NoRoom()

    turn = await scene.submit()
    await scene.redis.zadd(scene.keys.ring(), {TENANT: 0})

    assert await room.take(W1) == Taken(C, turn)


async def test_a_ready_spare_needs_no_start(room: Room) -> None:
    """It stood ready while a conversation waited for one of the slots that others used."""
    await room.beat(W1, starts_max=1)
    turns = [await room.wait(A, n) for n in range(3)]
    assert isinstance(await room.take(W1), Taken)
    assert await room.take(W1) == NoRoom()

    assert await room.take(W1, spares=1) == Taken(conversation_of(A, 1), turns[1])

    await room.scene.store.starts.end(conversation_of(A, 0), HOST_A)
    assert await room.take(W1) == Taken(conversation_of(A, 2), turns[2]), "it took no slot"


async def test_another_workers_spare_is_given_once_between_two_heartbeats(room: Room) -> None:
    await room.beat(W1, starts_max=1)
    await room.beat(W2, starts_max=1, spares=1)
    turns = [await room.wait(A, n) for n in range(3)]
    assert isinstance(await room.take(W1), Taken)

    assert await room.take(W1) == Elsewhere(W2, turns[1])
    assert await room.take(W1) == NoRoom()


async def test_a_worker_without_room_is_only_told_what_another_can_take(room: Room) -> None:
    await room.beat(W1)
    turn = await room.wait(A)
    assert await room.take(W1, has_room=False) == NoRoom()

    await room.beat(W2, used=7)

    assert await room.take(W1, has_room=False) == Elsewhere(W2, turn)
