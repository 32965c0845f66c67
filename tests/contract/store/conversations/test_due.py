"""Idle conversations whose deadline has passed: each worker is told of its own."""

from __future__ import annotations

import asyncio

from infra.wire.ids import ConversationKey, HostId, WorkerId
from tests.contract.store.placing import Room
from tests.contract.store.scene import DONE, HOST_A, HOST_B, W1, W2, W3, C, Scene


async def idle_at_once(scene: Scene, worker: WorkerId, c: ConversationKey) -> None:
    """A warm conversation of the worker whose deadline has passed."""
    lease, turn = await scene.begin(worker, c)
    await scene.store.turns.finish(lease, turn, 1, DONE, idle_timeout_s=0)


async def test_a_worker_is_told_only_what_is_its_own_to_stop(scene: Scene) -> None:
    """All were told the same fifty, so ten workers stopped no more than one."""
    mine, left, gone = (ConversationKey(letter * 24) for letter in "cde")
    for worker, c in ((W1, mine), (W2, left), (W3, gone)):
        await idle_at_once(scene, worker, c)
    conversations, room = scene.store.conversations, Room(scene)
    for c in (left, gone):
        await scene.lapse(c)
    await room.beat(W2)
    await room.beat(W3, host=HOST_B)

    assert list(await conversations.due(W1, HOST_A)) == [(mine, W1, HOST_A), (left, None, HOST_A)]
    assert list(await conversations.due(W3, HOST_B)) == [(gone, None, HOST_B)]
    assert list(await conversations.due(W2, HostId("host-c"))) == []

    await scene.store.workers.leave(W3)

    assert [c for c, _, _ in await conversations.due(W1, HOST_A)] == [mine, left, gone]


async def test_what_another_host_does_not_stop_hides_nothing(scene: Scene) -> None:
    """One draining host with fifty idle conversations kept every other from stopping anything."""
    await idle_at_once(scene, W1, C)
    await Room(scene).beat(W3, host=HOST_B)
    others = [ConversationKey(f"{n:024x}") for n in range(300)]
    async with scene.redis.pipeline(transaction=True) as pipe:
        pipe.zadd(scene.keys.idle(), dict.fromkeys(others, 1))
        for c in others:
            pipe.hset(scene.keys.conversation(c), mapping={"state": "warm", "host": HOST_B})
        await pipe.execute()

    async with asyncio.timeout(20):
        while not (found := await scene.store.conversations.due(W1, HOST_A)):
            pass
    assert [c for c, _, _ in found] == [C]


async def test_of_thousands_that_are_due_a_worker_is_told_of_all_its_own(scene: Scene) -> None:
    """It was told of those among two hundred: all workers together stopped sixty a second."""
    own = [ConversationKey(f"{n:024x}") for n in range(300)]
    others = [ConversationKey(f"{n:024x}") for n in range(300, 3000)]
    await Room(scene).beat(W3, host=HOST_B)
    async with scene.redis.pipeline(transaction=True) as pipe:
        pipe.zadd(scene.keys.idle(), dict.fromkeys(own + others, 1))
        for c in own:
            pipe.hset(scene.keys.conversation(c), mapping={"state": "warm", "host": HOST_A})
            pipe.set(scene.keys.lease(c), W1)
        for c in others:
            pipe.hset(scene.keys.conversation(c), mapping={"state": "warm", "host": HOST_B})
        await pipe.execute()

    found = await scene.store.conversations.due(W1, HOST_A, owned=own)
    assert [c for c, _, _ in found] == own
    # Of what is not its own any more, or not due, it is told nothing.
    await scene.redis.set(scene.keys.lease(own[0]), W3)
    await scene.redis.zadd(scene.keys.idle(), {own[1]: 4e12})
    await scene.redis.delete(scene.keys.conversation(own[2]))
    found = await scene.store.conversations.due(W1, HOST_A, owned=own)
    assert [c for c, _, _ in found] == own[3:]
