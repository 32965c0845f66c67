"""What Redis lost is put on record again from what lives; what was given up stays so."""

from __future__ import annotations

import pytest

from infra.wire.ids import Fence, HostId
from infra.wire.states import ConversationState
from tests.contract.store.placement.test_workers import a_worker
from tests.contract.store.scene import DONE, HOST_A, HOST_B, TENANT, W1, W2, C, Scene

AGES_AGO = Fence(1_000_000)


async def restore(scene: Scene, fence: Fence = AGES_AGO, *, host: HostId = HOST_A) -> bool:
    return await scene.store.conversations.restore(
        C, host=host, container="box-1", fence=fence, idle_timeout_s=60
    )


async def test_a_container_older_than_what_redis_has_is_put_on_record(scene: Scene) -> None:
    await scene.store.workers.beat(a_worker(W1))

    assert await restore(scene)

    record = await scene.store.conversations.get(C)
    assert record is not None
    assert (record.state, record.container) == (ConversationState.WARM, "box-1")
    assert (record.host, record.owner, record.fence) == (HOST_A, None, AGES_AGO)
    idle_ms = await scene.redis.zscore(scene.keys.idle(), C)
    assert idle_ms == record.idle_at_ms == pytest.approx(record.last_active_ms + 60_000, abs=1000)
    assert await scene.redis.pttl(scene.keys.conversation(C)) > 0
    assert not await restore(scene), "once is enough"


async def test_a_restored_conversation_is_owned_used_and_reaped_like_any_other(
    scene: Scene,
) -> None:
    assert await restore(scene)
    lease = await scene.acquire(W2)
    assert lease.fence > AGES_AGO
    turn = await scene.submit()
    assert (await scene.claim(lease)).record.turn == turn
    assert await scene.conversation_state() is ConversationState.BUSY
    await scene.store.turns.start(lease, turn)
    await scene.store.turns.finish(lease, turn, 1, DONE, idle_timeout_s=0)
    assert await scene.store.conversations.reap(C, W2)
    await scene.store.leases.release(lease, ConversationState.COLD)


async def test_one_that_nobody_asks_for_again_is_forgotten_when_it_goes_cold(scene: Scene) -> None:
    assert await restore(scene)
    lease = await scene.acquire()
    await scene.redis.zadd(scene.keys.idle(), {C: 1})
    assert await scene.store.conversations.reap(C, W1)
    await scene.store.leases.release(lease, ConversationState.COLD)
    assert await scene.store.conversations.get(C) is None


async def test_a_turn_that_came_first_finds_the_living_container(scene: Scene) -> None:
    turn = await scene.submit()

    assert await restore(scene)

    record = await scene.store.conversations.get(C)
    assert record is not None
    assert (record.state, record.tenant) == (ConversationState.WARM, TENANT)
    assert await scene.redis.zscore(scene.keys.idle(), C) is None, "it is not idle"
    assert (await scene.claim(await scene.acquire())).record.turn == turn


async def test_a_container_younger_than_what_redis_has_is_a_leftover(scene: Scene) -> None:
    await scene.store.workers.beat(a_worker(W1))
    young = Fence((await scene.acquire()).fence)
    await scene.redis.delete(scene.keys.conversation(C), scene.keys.lease(C))

    assert not await restore(scene, young)
    assert await scene.store.conversations.get(C) is None


async def test_what_went_cold_stays_cold(scene: Scene) -> None:
    lease, turn = await scene.begin()
    await scene.store.turns.finish(lease, turn, 1, DONE, idle_timeout_s=60)
    await scene.store.leases.release(lease, ConversationState.COLD)

    assert not await restore(scene, lease.fence)


async def test_what_has_an_owner_or_another_place_is_left_alone(scene: Scene) -> None:
    lease, _ = await scene.begin()
    assert not await restore(scene)
    await scene.lapse()
    assert not await restore(scene), "its record names a container"
    assert not await restore(scene, Fence(lease.fence + 1), host=HOST_B)


async def test_what_was_deleted_is_not_brought_back(scene: Scene) -> None:
    lease, turn = await scene.begin()
    await scene.store.turns.finish(lease, turn, 1, DONE, idle_timeout_s=60)
    await scene.store.conversations.delete(C, tenant=TENANT, reason="deleted")

    assert not await restore(scene)
    assert await restore(scene, host=HOST_B), "only where its files are to be removed"
