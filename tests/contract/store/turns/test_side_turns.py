"""Turns of the side lane: a conversation each, without a container, soon forgotten."""

from __future__ import annotations

from dataclasses import replace

from infra.store.access.limits import SubmitLimits
from infra.store.turns.turns import NewTurn
from infra.wire.ids import TurnId
from infra.wire.states import ConversationState, TurnState
from infra.wire.turns import Lane
from tests.contract.store.scene import DONE, W2, C, Scene, text_events

RETENTION_S = 600


def side_turn(scene: Scene) -> NewTurn:
    new = scene.new_turn()
    return replace(new, request=new.request.model_copy(update={"lane": Lane.SIDE}))


async def ask(scene: Scene) -> TurnId:
    submitted = await scene.store.turns.submit(
        side_turn(scene), limits=SubmitLimits(turns_waiting_max=8), retention_s=RETENTION_S
    )
    return submitted.turn


async def test_a_side_turns_lane_is_on_record(scene: Scene) -> None:
    turn = await ask(scene)
    record = await scene.store.turns.get(turn)
    conversation = await scene.store.conversations.get(C)
    assert record is not None
    assert conversation is not None
    assert (record.lane, conversation.lane) == (Lane.SIDE, Lane.SIDE)
    [ref] = await scene.store.turns.unclaimed(older_than_ms=0)
    assert ref.lane is Lane.SIDE


async def test_a_side_turn_runs_without_a_container_and_leaves_little(scene: Scene) -> None:
    turn = await ask(scene)
    lease = await scene.acquire()
    claimed = await scene.claim(lease)
    assert claimed.request.lane is Lane.SIDE

    await scene.store.log.append(lease, turn, text_events(1, 2))
    assert await scene.turn_state(turn) is TurnState.RUNNING
    assert not await scene.store.turns.finish(lease, turn, 3, DONE, idle_timeout_s=0)
    await scene.store.leases.release(lease, ConversationState.COLD)

    assert await scene.turn_state(turn) is TurnState.DONE
    assert await scene.store.conversations.due() == []
    assert await scene.store.turns.unclaimed(older_than_ms=0) == []
    left_ms = await scene.redis.pttl(scene.keys.conversation(C))
    assert 0 < left_ms <= RETENTION_S * 1000 * 9 / 8


async def test_a_side_turn_whose_worker_died_comes_up_again(scene: Scene) -> None:
    turn = await ask(scene)
    await scene.claim(await scene.acquire())
    await scene.lapse()
    await scene.redis.zadd(scene.keys.turns_open(), {turn: 0})

    [ref] = await scene.store.turns.unclaimed(older_than_ms=0)
    claimed = await scene.claim(await scene.acquire(W2))

    assert (ref.turn, ref.owner, ref.lane) == (turn, None, Lane.SIDE)
    assert claimed.is_adoption
    assert claimed.record.attempt == 2
