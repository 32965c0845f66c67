"""Who may stop an idle conversation's container before its deadline, and what is on record then."""

from __future__ import annotations

import asyncio

import pytest

from infra.store.conversations.leases import Lease
from infra.wire.errors import LeaseLost
from infra.wire.states import ConversationState, Hibernation
from tests.contract.store.scene import DONE, W1, W2, C, Scene


async def warm(scene: Scene) -> Lease:
    """A conversation whose deadline is a minute away."""
    lease, turn = await scene.begin(W1)
    await scene.store.turns.finish(lease, turn, 1, DONE, idle_timeout_s=60)
    return lease


@pytest.mark.parametrize("reason", Hibernation)
async def test_the_record_says_why_and_when_until_a_container_starts_again(
    scene: Scene, reason: Hibernation
) -> None:
    lease = await warm(scene)
    conversations = scene.store.conversations

    assert await conversations.hibernate(lease, reason)
    assert await scene.conversation_state() is ConversationState.STOPPING
    await scene.store.leases.release(lease, ConversationState.COLD)

    record = await conversations.get(C)
    assert record is not None
    assert (record.state, record.hibernated) == (ConversationState.COLD, reason)
    assert record.hibernated_at_ms is not None
    assert record.hibernated_at_ms >= record.last_active_ms
    assert (await scene.counts())["idle"] == 0

    lease = await scene.acquire(W2)
    await conversations.update(lease, ConversationState.STARTING)
    record = await conversations.get(C)
    assert record is not None
    assert (record.hibernated, record.hibernated_at_ms) == (None, None)


async def test_a_conversation_with_a_waiting_turn_is_not_hibernated(scene: Scene) -> None:
    lease = await warm(scene)
    await scene.submit()

    assert not await scene.store.conversations.hibernate(lease, Hibernation.MEMORY)
    record = await scene.store.conversations.get(C)
    assert record is not None
    assert (record.state, record.hibernated) == (ConversationState.WARM, None)


async def test_a_conversation_with_a_running_turn_is_not_hibernated(scene: Scene) -> None:
    lease, _ = await scene.begin(W1)

    assert not await scene.store.conversations.hibernate(lease, Hibernation.MEMORY)
    assert await scene.conversation_state() is ConversationState.BUSY


async def test_an_owner_of_before_hibernates_nothing(scene: Scene) -> None:
    lease = await warm(scene)
    await scene.lapse()
    await scene.acquire(W2)

    with pytest.raises(LeaseLost):
        await scene.store.conversations.hibernate(lease, Hibernation.MEMORY)
    assert await scene.conversation_state() is ConversationState.WARM


async def test_of_a_submit_and_a_hibernation_the_turn_is_never_forgotten(scene: Scene) -> None:
    lease = await warm(scene)

    turn, _ = await asyncio.gather(
        scene.submit(), scene.store.conversations.hibernate(lease, Hibernation.MEMORY)
    )

    await scene.store.leases.release(lease, ConversationState.COLD)
    assert (await scene.claim(await scene.acquire(W2))).record.turn == turn


async def test_asked_again_after_a_lost_answer_it_is_won_again(scene: Scene) -> None:
    lease = await warm(scene)
    conversations = scene.store.conversations
    assert await conversations.hibernate(lease, Hibernation.ROOM)

    assert await conversations.hibernate(lease, Hibernation.ROOM)


async def test_a_conversation_whose_owner_died_while_it_hibernated_is_due(scene: Scene) -> None:
    lease = await warm(scene)
    await scene.store.conversations.hibernate(lease, Hibernation.MEMORY)
    await scene.lapse()
    await scene.redis.zadd(scene.keys.idle(), {C: 1})

    assert list(await scene.store.conversations.due()) != []
    assert await scene.store.conversations.reap(C, W2)
