"""Turns that agents ask of other agents: counted, lent to, ended and deleted with their callers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from infra.store.turns.records import CalledBy, CallerOver, CallsTooMany
from infra.wire.ids import ConversationKey, TurnId
from infra.wire.states import ConversationState, TurnState
from tests.contract.store.scene import DONE, OTHER_TENANT, TENANT, W1, W2, C, Scene

CALLED = ConversationKey("e" * 24)


def by(turn: TurnId, *, at_once: int = 3, most: int = 10, tokens: int = 0) -> CalledBy:
    return CalledBy(turn=turn, at_once_max=at_once, most=most, granted_tokens=tokens)


async def call(scene: Scene, caller: CalledBy, c: ConversationKey = CALLED) -> TurnId:
    new = replace(scene.new_turn(c), called_by=caller)
    return (await scene.offer(new)).turn


async def test_a_called_conversation_is_known_by_its_caller_and_not_listed(scene: Scene) -> None:
    lease, turn = await scene.begin(W1)
    called = await call(scene, by(turn))
    record = await scene.store.conversations.get(CALLED)
    assert record is not None
    assert record.caller == C
    await scene.store.turns.finish(lease, turn, 1, DONE, idle_timeout_s=60)
    del called
    listed = (await scene.store.conversations.list(TENANT)).conversations
    assert [one.conversation for one in listed] == [C]


async def test_a_call_that_is_made_again_is_the_same_turn(scene: Scene) -> None:
    _, turn = await scene.begin(W1)
    new = replace(scene.new_turn(CALLED), called_by=by(turn, most=1, tokens=7))
    assert (await scene.offer(new)).created
    assert (await scene.offer(new)).created
    assert await scene.store.turns.lent_tokens(turn) == 7


async def test_calls_at_once_are_bounded(scene: Scene) -> None:
    _, turn = await scene.begin(W1)
    first = await call(scene, by(turn, at_once=1, most=2))
    with pytest.raises(CallsTooMany):
        await call(scene, by(turn, at_once=1, most=2))
    assert await scene.store.turns.expire(first)
    await call(scene, by(turn, at_once=1, most=2))
    with pytest.raises(CallsTooMany):
        await call(scene, by(turn, at_once=3, most=2))


async def test_a_turn_that_is_over_calls_nobody(scene: Scene) -> None:
    lease, turn = await scene.begin(W1)
    strange = replace(scene.new_turn(CALLED, tenant=OTHER_TENANT), called_by=by(turn))
    with pytest.raises(CallerOver):
        await scene.offer(strange)
    with pytest.raises(CallerOver):
        await call(scene, by(TurnId("turn_" + "0" * 32)))
    await scene.store.turns.cancel(turn, tenant=TENANT, reason="x")
    with pytest.raises(CallerOver):
        await call(scene, by(turn))
    await scene.store.turns.finish(lease, turn, 1, DONE, idle_timeout_s=60)
    with pytest.raises(CallerOver):
        await call(scene, by(turn))
    assert await scene.store.conversations.get(CALLED) is None


async def test_what_ends_a_turn_asks_those_that_it_called_to_end(scene: Scene) -> None:
    lease, turn = await scene.begin(W1)
    running = await call(scene, by(turn))
    claimed = await scene.claim(await scene.acquire(W2, CALLED))
    assert claimed.record.turn == running
    waits = ConversationKey("f" * 24)
    waiting = await call(scene, by(turn), waits)
    await scene.store.turns.finish(lease, turn, 1, DONE, idle_timeout_s=60)
    for one in (running, waiting):
        record = await scene.store.turns.get(one)
        assert record is not None
        assert record.cancel == "its caller has ended"
    # One that waits is ended by its claim: no agent is started for it.
    assert await scene.store.turns.claim(await scene.acquire(W2, waits)) is None
    record = await scene.store.turns.get(waiting)
    assert record is not None
    assert record.state is TurnState.CANCELLED


async def test_a_deleted_conversation_takes_what_it_called_and_what_that_called(
    scene: Scene,
) -> None:
    lease, turn = await scene.begin(W1)
    called = await call(scene, by(turn))
    below = ConversationKey("f" * 24)
    deeper = await call(scene, by(called), below)
    await scene.store.turns.finish(lease, turn, 1, DONE, idle_timeout_s=60)
    await scene.store.conversations.update(lease, ConversationState.STOPPING)
    await scene.store.conversations.delete(C, tenant=TENANT, reason="x", is_forced=True)
    for c in (C, CALLED, below):
        assert await scene.store.conversations.get(c) is None
    for one in (called, deeper):
        record = await scene.store.turns.get(one)
        assert record is None or record.state is TurnState.CANCELLED


async def test_a_called_conversation_may_be_deleted_alone(scene: Scene) -> None:
    _, turn = await scene.begin(W1)
    await call(scene, by(turn))
    await scene.store.conversations.delete(CALLED, tenant=TENANT, reason="x", is_forced=True)
    assert await scene.store.conversations.get(C) is not None
    assert not await scene.redis.exists(scene.keys.called(C))


async def test_what_a_called_turn_has_not_used_is_no_longer_lent(scene: Scene) -> None:
    _, turn = await scene.begin(W1)
    called = await call(scene, by(turn, tokens=500))
    await call(scene, by(called, tokens=250), ConversationKey("f" * 24))
    assert await scene.store.turns.lent_tokens(turn) == 500
    assert await scene.store.turns.expire(called)
    assert await scene.store.turns.lent_tokens(turn) == 250, "whom it called may still use that"
