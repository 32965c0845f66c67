"""No script makes a step that the tables of `infra.wire.states` do not have.

Every operation is tried on a record forced into every state; whatever it does, the step from the
state before to the state after must be in the table (or be no step at all).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import product

import pytest

from infra.store.conversations.leases import Lease
from infra.wire.errors import AgClusterError, IllegalTransition
from infra.wire.ids import TurnId
from infra.wire.states import (
    CONVERSATION_TRANSITIONS,
    TURN_TRANSITIONS,
    ConversationState,
    TurnState,
)
from tests.contract.store.scene import (
    TENANT,
    W1,
    W2,
    C,
    Scene,
    end_in,
    text_events,
)

pytestmark = pytest.mark.slow

Operation = Callable[[Scene, Lease, TurnId], Awaitable[object]]


def _finish(state: TurnState) -> Operation:
    return lambda s, lease, turn: s.store.turns.finish(
        lease, turn, 1, end_in(state), idle_timeout_s=60
    )


async def _take_over_and_claim(scene: Scene, _: Lease, __: TurnId) -> object:
    await scene.lapse()
    return await scene.store.turns.claim(await scene.acquire(W2))


async def _reap(scene: Scene, _: Lease, __: TurnId) -> object:
    await scene.redis.hdel(scene.keys.conversation(C), "turn")  # type: ignore[misc]
    await scene.redis.delete(scene.keys.todo(C))
    await scene.redis.zadd(scene.keys.idle(), {C: 1})
    return await scene.store.conversations.reap(C, W1)


TURN_OPERATIONS: dict[str, Operation] = {
    "claim": lambda s, lease, _: s.store.turns.claim(lease),
    "take over": _take_over_and_claim,
    "start": lambda s, lease, turn: s.store.turns.start(lease, turn),
    "requeue": lambda s, lease, turn: s.store.turns.requeue(lease, turn),
    "append": lambda s, lease, turn: s.store.log.append(lease, turn, text_events(1, 1)),
    "cancel": lambda s, _, turn: s.store.turns.cancel(turn, tenant=TENANT, reason="stop"),
    "expire": lambda s, _, turn: s.store.turns.expire(turn),
    "renew": lambda s, lease, _: s.store.leases.renew([lease]),
    "release": lambda s, lease, _: s.store.leases.release(lease, ConversationState.COLD),
    "sweep": lambda s, _, __: s.store.turns.unclaimed(older_than_ms=0),
    **{f"finish {state}": _finish(state) for state in TurnState if state.is_terminal},
}

CONVERSATION_OPERATIONS: dict[str, Operation] = {
    **TURN_OPERATIONS,
    "reap": _reap,
    "submit": lambda s, _, __: s.submit(),
    **{
        f"update {state}": lambda s, lease, _, state=state: s.store.conversations.update(  # type: ignore[misc]
            lease, state
        )
        for state in ConversationState
    },
    **{
        f"release {state}": lambda s, lease, _, state=state: s.store.leases.release(  # type: ignore[misc]
            lease, state
        )
        for state in ConversationState
    },
}


def _path_exists(old: TurnState, new: TurnState) -> bool:
    """One step, or two where an operation passes through a state."""
    return new in TURN_TRANSITIONS[old] or any(
        new in TURN_TRANSITIONS[through] for through in TURN_TRANSITIONS[old]
    )


ONE_STEP_ONLY = ("start", "requeue", "append", "cancel", "expire", "renew", "release", "sweep")


@pytest.mark.parametrize("name", list(TURN_OPERATIONS))
async def test_no_operation_takes_a_turn_along_a_step_the_table_lacks(
    fake_scene: Scene, name: str
) -> None:
    for old, is_cancelled, attempt in product(TurnState, (False, True), ("1", "2")):
        await fake_scene.redis.flushall()
        new = await _turn_after(fake_scene, name, old, is_cancelled, attempt)

        legal = new is old or new in TURN_TRANSITIONS[old]
        assert legal or (name not in ONE_STEP_ONLY and _path_exists(old, new)), f"{old} -> {new}"


async def _turn_after(
    scene: Scene, name: str, old: TurnState, is_cancelled: bool, attempt: str
) -> TurnState:
    """The state a turn is in after the operation was tried on it."""
    turn = await scene.submit()
    lease = await scene.acquire(W1)
    await scene.claim(lease)
    await scene.redis.hset(scene.keys.turn(turn), "attempt", attempt)  # type: ignore[misc]
    if is_cancelled:
        await scene.redis.hset(scene.keys.turn(turn), "cancel", "stop")  # type: ignore[misc]
    if old is TurnState.QUEUED:
        await scene.redis.hdel(scene.keys.conversation(C), "turn")  # type: ignore[misc]
        await scene.redis.lpush(scene.keys.todo(C), turn)  # type: ignore[misc]
    await scene.force_turn(turn, old)
    try:
        await TURN_OPERATIONS[name](scene, lease, turn)
    except AgClusterError:
        assert await scene.turn_state(turn) is old, "a refused operation changed something"
    return await scene.turn_state(turn)


@pytest.mark.parametrize("name", list(CONVERSATION_OPERATIONS))
async def test_no_operation_takes_a_conversation_along_a_step_the_table_lacks(
    fake_scene: Scene, name: str
) -> None:
    for old in ConversationState:
        await fake_scene.redis.flushall()
        new = await _conversation_after(fake_scene, name, old)

        through_stopping = name.startswith("release") and new is ConversationState.COLD
        legal = new is old or new in CONVERSATION_TRANSITIONS[old]
        assert legal or through_stopping, f"{old} -> {new}"


async def _conversation_after(scene: Scene, name: str, old: ConversationState) -> ConversationState:
    """The state a conversation is in after the operation was tried on it."""
    turn = await scene.submit()
    lease = await scene.acquire(W1)
    await scene.claim(lease)
    await scene.force_conversation(old)
    try:
        await CONVERSATION_OPERATIONS[name](scene, lease, turn)
    except AgClusterError:
        assert await scene.conversation_state() is old, "a refused operation changed something"
    return await scene.conversation_state()


@pytest.mark.parametrize("new", list(ConversationState))
@pytest.mark.parametrize("old", list(ConversationState))
async def test_an_update_does_what_the_table_says(
    scene: Scene, old: ConversationState, new: ConversationState
) -> None:
    lease = await scene.acquire(W1)
    await scene.force_conversation(old)

    if new in CONVERSATION_TRANSITIONS[old] or new is old:
        await scene.store.conversations.update(lease, new)
        assert await scene.conversation_state() is new
    else:
        with pytest.raises(IllegalTransition) as refused:
            await scene.store.conversations.update(lease, new)
        assert (refused.value.old, refused.value.new) == (old.value, new.value)
        assert await scene.conversation_state() is old


@pytest.mark.parametrize("old", [TurnState.CLAIMED, TurnState.RUNNING])
@pytest.mark.parametrize("new", [state for state in TurnState if state.is_terminal])
async def test_a_finish_does_what_the_table_says(
    scene: Scene, old: TurnState, new: TurnState
) -> None:
    turn = await scene.submit()
    lease = await scene.acquire(W1)
    await scene.claim(lease)
    await scene.force_turn(turn, old)

    if _path_exists(old, new) and new is not TurnState.EXPIRED:
        await _finish(new)(scene, lease, turn)
        assert await scene.turn_state(turn) is new
    else:
        with pytest.raises(IllegalTransition):
            await _finish(new)(scene, lease, turn)
        assert await scene.turn_state(turn) is old
