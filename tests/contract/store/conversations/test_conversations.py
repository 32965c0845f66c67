"""Conversations: what is on record, and who may stop an idle one."""

from __future__ import annotations

import asyncio

import pytest

from infra.wire.errors import LeaseLost
from infra.wire.states import ConversationState
from tests.contract.store.scene import (
    DONE,
    HOST_A,
    OTHER_C,
    W1,
    W2,
    C,
    Scene,
)


async def idle(scene: Scene) -> None:
    """A warm conversation of worker 1 whose deadline has passed."""
    lease, turn = await scene.begin(W1)
    await scene.store.turns.finish(lease, turn, 1, DONE, idle_timeout_s=0)


async def test_an_unknown_conversation_is_none(scene: Scene) -> None:
    assert await scene.store.conversations.get(C) is None


async def test_a_container_and_a_session_stay_on_record(scene: Scene) -> None:
    lease = await scene.acquire()
    update = scene.store.conversations.update
    await update(lease, ConversationState.STARTING)
    await update(lease, ConversationState.BUSY, container="box-1", sdk_session="session-1")

    await update(lease, ConversationState.WARM)

    record = await scene.store.conversations.get(C)
    assert record is not None
    assert (record.container, record.sdk_session) == ("box-1", "session-1")
    assert (record.host, record.owner, record.fence) == (HOST_A, W1, lease.fence)


async def test_a_stopped_conversation_keeps_its_session_but_no_container(scene: Scene) -> None:
    lease, turn = await scene.begin()
    await scene.store.turns.finish(lease, turn, 1, DONE, idle_timeout_s=60)
    update = scene.store.conversations.update
    await update(lease, ConversationState.WARM, sdk_session="session-1")

    await update(lease, ConversationState.STOPPING)
    await update(lease, ConversationState.COLD)

    record = await scene.store.conversations.get(C)
    assert record is not None
    assert (record.container, record.sdk_session) == (None, "session-1")
    assert record.idle_at_ms is None
    assert (await scene.counts())["idle"] == 0


async def test_an_update_of_an_unowned_conversation_is_refused(scene: Scene) -> None:
    lease = await scene.acquire()
    await scene.redis.delete(scene.keys.conversation(C))

    with pytest.raises(LeaseLost):
        await scene.store.conversations.update(lease, ConversationState.STARTING)


async def test_a_conversation_is_due_when_its_deadline_has_passed(scene: Scene) -> None:
    await idle(scene)
    lease, turn = await scene.begin(W2, OTHER_C)
    await scene.store.turns.finish(lease, turn, 1, DONE, idle_timeout_s=600)

    assert list(await scene.store.conversations.due()) == [(C, W1, HOST_A)]


async def test_a_due_conversation_of_a_dead_owner_names_its_host(scene: Scene) -> None:
    await idle(scene)
    await scene.lapse()

    assert list(await scene.store.conversations.due()) == [(C, None, HOST_A)]


async def test_a_forgotten_conversation_is_not_due(scene: Scene) -> None:
    await idle(scene)
    await scene.redis.delete(scene.keys.conversation(C))

    assert list(await scene.store.conversations.due()) == []
    assert (await scene.counts())["idle"] == 0


async def test_of_many_reapers_one_wins(scene: Scene) -> None:
    await idle(scene)
    await scene.lapse()

    wins = await asyncio.gather(*(scene.store.conversations.reap(C, W2) for _ in range(20)))

    assert sum(wins) == 1
    assert await scene.conversation_state() is ConversationState.STOPPING


async def test_a_living_owner_alone_may_reap(scene: Scene) -> None:
    await idle(scene)

    assert not await scene.store.conversations.reap(C, W2)
    assert await scene.store.conversations.reap(C, W1)


async def test_a_conversation_with_a_waiting_turn_is_not_reaped(scene: Scene) -> None:
    await idle(scene)
    await scene.submit()

    assert not await scene.store.conversations.reap(C, W1)
    assert await scene.conversation_state() is ConversationState.WARM


async def test_a_conversation_with_a_running_turn_is_not_reaped(scene: Scene) -> None:
    await scene.begin()
    await scene.redis.zadd(scene.keys.idle(), {C: 1})

    assert not await scene.store.conversations.reap(C, W1)
    assert await scene.conversation_state() is ConversationState.BUSY


async def test_a_conversation_is_not_reaped_before_its_deadline(scene: Scene) -> None:
    lease, turn = await scene.begin()
    await scene.store.turns.finish(lease, turn, 1, DONE, idle_timeout_s=60)

    assert not await scene.store.conversations.reap(C, W1)


async def test_of_a_submit_and_a_reap_the_turn_is_never_forgotten(scene: Scene) -> None:
    await idle(scene)

    turn, _ = await asyncio.gather(scene.submit(), scene.store.conversations.reap(C, W1))

    lease = await scene.acquire(W1)
    assert (await scene.claim(lease)).record.turn == turn


async def test_a_conversation_whose_reaper_died_is_due_again(scene: Scene) -> None:
    await idle(scene)
    assert await scene.store.conversations.reap(C, W1)
    assert not await scene.store.conversations.reap(C, W2), "its deadline has moved"

    await scene.lapse()
    await scene.redis.zadd(scene.keys.idle(), {C: 1})

    assert await scene.store.conversations.reap(C, W2)
    lease = await scene.acquire(W2)
    await scene.store.leases.release(lease, ConversationState.COLD)
    assert await scene.conversation_state() is ConversationState.COLD
    assert (await scene.counts())["idle"] == 0


async def test_a_turn_that_ended_while_its_container_started_leaves_a_deadline(
    scene: Scene,
) -> None:
    turn = await scene.submit()
    lease = await scene.acquire()
    await scene.claim(lease)
    await scene.store.conversations.update(lease, ConversationState.STARTING)

    await scene.store.turns.finish(lease, turn, 1, DONE, idle_timeout_s=0)

    await scene.lapse()
    assert await scene.store.conversations.reap(C, W2)
