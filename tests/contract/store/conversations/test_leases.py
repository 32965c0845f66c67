"""Ownership: one living owner, a fence that only grows, nothing written under a stale one."""

from __future__ import annotations

import asyncio

import pytest

from infra.store.conversations.leases import Lease
from infra.wire.errors import IllegalTransition, LeaseHeld, LeaseLost
from infra.wire.ids import Fence
from infra.wire.states import ConversationState, TurnState
from tests.contract.store.scene import (
    CANCELLED,
    DONE,
    HOST_A,
    HOST_B,
    OTHER_C,
    TENANT,
    W1,
    W2,
    W3,
    C,
    Scene,
    text_events,
)


async def test_of_two_workers_one_gets_the_lease(scene: Scene) -> None:
    await scene.submit()

    results = await asyncio.gather(
        *(scene.acquire(worker) for worker in (W1, W2)), return_exceptions=True
    )

    [lease] = [r for r in results if isinstance(r, Lease)]
    [held] = [r for r in results if isinstance(r, LeaseHeld)]
    assert held.owner == lease.worker


async def test_the_own_living_lease_is_given_again_with_its_fence(scene: Scene) -> None:
    assert await scene.acquire(W1) == await scene.acquire(W1)


async def test_the_fence_grows_with_each_owner(scene: Scene) -> None:
    first = await scene.acquire(W1)
    await scene.lapse()
    second = await scene.acquire(W2)
    await scene.lapse()
    third = await scene.acquire(W1)

    assert first.fence < second.fence < third.fence


async def test_the_fence_grows_even_when_the_clock_of_redis_steps_back(scene: Scene) -> None:
    far_ahead = 4_000_000_000_000_000
    await scene.submit()
    await scene.redis.hset(scene.keys.conversation(C), "fence", far_ahead)  # type: ignore[misc, arg-type]

    assert (await scene.acquire(W1)).fence == far_ahead + 1


async def test_a_worker_is_never_given_an_older_fence_than_it_had(scene: Scene) -> None:
    """A failover lost the last lease, and the clock of the new primary is behind the old one's: the
    agent, which knows the newer fence, would refuse its own owner for as long."""
    ahead = await scene.acquire(W1)
    had = Fence(ahead.fence + 3_600_000_000)
    await scene.redis.delete(scene.keys.conversation(C), scene.keys.lease(C))
    again = await scene.store.leases.acquire(C, W1, HOST_A, above=had)
    assert again.fence == had + 1
    assert (await scene.acquire(W1, OTHER_C)).fence < had


async def test_the_fence_comes_from_the_clock_so_a_lost_counter_cannot_step_it_back(
    scene: Scene,
) -> None:
    before = await scene.acquire(W1)
    await scene.redis.delete(scene.keys.conversation(C), scene.keys.lease(C))

    assert (await scene.acquire(W2)).fence > before.fence


async def test_every_write_of_an_owner_is_refused_once_another_has_the_lease(scene: Scene) -> None:
    stale, turn = await scene.begin(W1)
    await scene.lapse()
    await scene.acquire(W2)
    store = scene.store

    writes = (
        store.turns.claim(stale),
        store.turns.start(stale, turn),
        store.turns.requeue(stale, turn),
        store.turns.finish(stale, turn, 1, DONE, idle_timeout_s=1),
        store.log.append(stale, turn, text_events(1, 3)),
        store.conversations.update(stale, ConversationState.WARM),
    )
    for write in writes:
        with pytest.raises(LeaseLost):
            await write
    await store.leases.release(stale, ConversationState.COLD)

    assert (await store.log.read(turn, after=0)).events == []
    assert await scene.turn_state(turn) is TurnState.RUNNING
    record = await store.conversations.get(C)
    assert record
    assert record.owner == W2
    assert record.state is ConversationState.BUSY


async def test_a_made_up_fence_is_refused(scene: Scene) -> None:
    lease, turn = await scene.begin(W1)
    forged = Lease(C, W1, Fence(lease.fence + 1))

    with pytest.raises(LeaseLost):
        await scene.store.log.append(forged, turn, text_events(1, 1))


async def test_a_renewal_keeps_what_is_held_and_names_what_is_lost(scene: Scene) -> None:
    kept = await scene.acquire(W1, C)
    lost = await scene.acquire(W1, OTHER_C)
    await scene.lapse(OTHER_C)
    await scene.acquire(W2, OTHER_C)
    await scene.redis.pexpire(scene.keys.lease(C), 1000)

    renewal = await scene.store.leases.renew([kept, lost])

    assert renewal.lost == {OTHER_C}
    assert await scene.redis.pttl(scene.keys.lease(C)) > 10_000
    with pytest.raises(LeaseHeld):
        await scene.acquire(W1, OTHER_C)


async def test_a_lapsed_lease_nobody_took_is_renewed(scene: Scene) -> None:
    lease = await scene.acquire(W1)
    await scene.lapse()

    assert not (await scene.store.leases.renew([lease])).lost
    with pytest.raises(LeaseHeld):
        await scene.acquire(W2)


async def test_a_renewal_does_not_bring_a_released_lease_back(scene: Scene) -> None:
    lease = await scene.acquire(W1)
    await scene.store.leases.release(lease, ConversationState.COLD)

    assert (await scene.store.leases.renew([lease])).lost == {C}
    assert (await scene.acquire(W2)).worker == W2


async def test_a_renewal_brings_the_cancel_of_a_running_turn(scene: Scene) -> None:
    lease, turn = await scene.begin(W1)
    other = await scene.acquire(W1, OTHER_C)
    await scene.store.turns.cancel(turn, tenant=TENANT, reason="client gone")

    renewal = await scene.store.leases.renew([other, lease])

    assert renewal.cancelled == {C: (turn, "client gone")}


async def test_renewing_nothing_asks_nothing(scene: Scene) -> None:
    renewal = await scene.store.leases.renew([])
    assert not renewal.lost
    assert not renewal.cancelled


async def test_many_leases_are_renewed_at_once(scene: Scene) -> None:
    names = [type(C)(f"{i:024x}") for i in range(300)]
    leases = [await scene.acquire(W1, c) for c in names]

    assert not (await scene.store.leases.renew(leases)).lost


async def test_a_release_frees_the_conversation_at_once(scene: Scene) -> None:
    lease, turn = await scene.begin(W1)
    await scene.store.turns.finish(lease, turn, 1, DONE, idle_timeout_s=60)

    await scene.store.leases.release(lease, ConversationState.COLD)

    record = await scene.store.conversations.get(C)
    assert record
    assert record.owner is None
    assert record.container is None
    assert record.state is ConversationState.COLD
    assert await scene.redis.zcard(scene.keys.idle()) == 0
    assert (await scene.acquire(W2)).fence > lease.fence


async def test_a_handover_leaves_container_and_running_turn_to_the_successor(scene: Scene) -> None:
    lease, turn = await scene.begin(W1)

    await scene.store.leases.release(lease, ConversationState.BUSY)

    [open_turn] = await scene.store.turns.unclaimed(older_than_ms=1000)
    assert (open_turn.turn, open_turn.owner) == (turn, None)
    claimed = await scene.claim(await scene.acquire(W2))
    assert claimed.is_adoption
    assert claimed.record.turn == turn
    record = await scene.store.conversations.get(C)
    assert record
    assert record.container == "box-1"


async def test_a_release_into_an_impossible_state_is_refused(scene: Scene) -> None:
    lease = await scene.acquire(W1)

    with pytest.raises(IllegalTransition):
        await scene.store.leases.release(lease, ConversationState.BUSY)

    assert not (await scene.store.leases.renew([lease])).lost


async def test_the_host_on_record_is_where_the_container_is(scene: Scene) -> None:
    _, turn = await scene.begin(W1)
    await scene.lapse()

    lease = await scene.acquire(W3)
    claimed = await scene.claim(lease)
    assert claimed.is_adoption
    assert claimed.host == HOST_A

    await scene.store.turns.finish(lease, turn, 1, CANCELLED, idle_timeout_s=60)
    await scene.store.conversations.update(lease, ConversationState.LOST)
    await scene.store.conversations.update(lease, ConversationState.STARTING)
    record = await scene.store.conversations.get(C)
    assert record
    assert record.host == HOST_B
    assert record.container is None


async def test_a_release_names_the_turn_that_waits_and_offers_it_to_the_sweeps(
    scene: Scene,
) -> None:
    lease = await scene.acquire(W1)
    turn = await scene.submit()

    assert await scene.store.leases.release(lease, ConversationState.COLD) == turn
    assert await scene.redis.zscore(scene.keys.turns_open(), turn) == 0


async def test_a_turn_that_waits_behind_an_unfinished_one_is_not_offered(scene: Scene) -> None:
    lease, running = await scene.begin(W1)
    waiting = await scene.submit()

    assert await scene.store.leases.release(lease, ConversationState.BUSY) is None
    assert await scene.redis.zscore(scene.keys.turns_open(), running) == 0
    assert await scene.redis.zscore(scene.keys.turns_open(), waiting) != 0
