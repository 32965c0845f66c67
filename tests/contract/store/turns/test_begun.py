"""A turn of a warm conversation is begun by its submit, and its owner hears all of it at once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from infra.store.conversations.leases import Lease
from infra.store.turns.history import Memory, TurnBase
from infra.store.turns.turns import Claimed, NewTurn
from infra.wire.control import TurnWaits, decode_control
from infra.wire.errors import TurnNotFound
from infra.wire.events import TurnStarted, encode_event
from infra.wire.history.decision import Accepted
from infra.wire.ids import TenantId, TurnId
from infra.wire.link import BaseKind
from infra.wire.options import ConversationOptions
from infra.wire.states import ConversationState, TurnState
from infra.wire.turns import TextBlock
from tests.contract.store.listening import Listener
from tests.contract.store.scene import (
    CANCELLED,
    DONE,
    OTHER_C,
    TENANT,
    W1,
    W2,
    C,
    Scene,
    failed,
    text_events,
)

GOES_ON = TurnBase(kind=BaseKind.CONTINUE, keep=1, known=1, digest="b" * 16, checkpoint="at-a")
LONG = TextBlock(text="x" * 30_000)


async def warm(scene: Scene) -> Lease:
    """A conversation whose first turn has ended, with its owner."""
    lease, turn = await scene.begin()
    await scene.store.turns.finish(lease, turn, 1, DONE, idle_timeout_s=60)
    return lease


async def remembering(scene: Scene) -> Lease:
    """The same, and the agent remembers its prompt."""
    turn = await scene.submit()
    lease = await scene.acquire()
    await scene.claim(lease)
    await scene.warm_up(lease)
    base = TurnBase(kind=BaseKind.CONTINUE, known=0, digest="a" * 16)
    await scene.store.turns.start(lease, turn, base=base)
    await hear(scene, lease, turn)
    end = DONE.model_copy(update={"checkpoint": "at-a"})
    await scene.store.turns.finish(lease, turn, 2, end, idle_timeout_s=60)
    return lease


async def hear(scene: Scene, lease: Lease, turn: TurnId) -> None:
    event = TurnStarted(sdk_session="session-1", model="m")
    await scene.store.log.append(lease, turn, [(1, encode_event(event))])


async def told(scene: Scene, new: NewTurn | None = None) -> TurnWaits:
    """What the listening owner hears of a turn."""
    async with Listener(scene, scene.keys.control_channel(W1)) as listener:
        submitted = await scene.offer(new or scene.new_turn())
        assert submitted.is_told
        waits = decode_control(await listener.next())
    assert isinstance(waits, TurnWaits)
    assert waits.turn == submitted.turn
    return waits


async def begun(scene: Scene, new: NewTurn | None = None) -> TurnId:
    """A turn that its submit began."""
    waits = await told(scene, new)
    assert waits.begun is not None
    return waits.turn


async def claim_told(scene: Scene, waits: TurnWaits) -> Claimed:
    assert waits.begun is not None
    return await scene.store.turns.begun(C, waits.turn, waits.begun)


async def test_nothing_is_begun_for_an_owner_that_has_missed_a_renewal(scene: Scene) -> None:
    await remembering(scene)
    await scene.redis.pexpire(scene.keys.lease(C), 8_000)
    waits = await told(scene)
    assert waits.begun is None
    record = await scene.store.turns.get(waits.turn)
    assert record is not None
    assert record.state is TurnState.QUEUED


async def test_its_owner_hears_what_its_claim_would_answer(scene: Scene) -> None:
    lease = await remembering(scene)
    waits = await told(scene, scene.new_turn(is_thin=True, sent=("b" * 16,)))

    heard = await claim_told(scene, waits)
    asked = await scene.claim(lease)

    assert replace(heard, age_s=0.0) == replace(asked, age_s=0.0)
    assert (heard.record.state, heard.record.attempt) == (TurnState.CLAIMED, 1)
    assert (heard.is_adoption, heard.known, heard.sdk_session) == (False, 1, "session-1")
    assert heard.record.fence == lease.fence
    assert heard.record.sealed_key == "v1.sealed"
    assert await scene.conversation_state() is ConversationState.BUSY
    assert await scene.counts() == {"open": 1, "idle": 0}
    assert await scene.redis.zcard(scene.keys.tenant_waiting(TENANT)) == 0


@pytest.mark.parametrize(
    "why", ["deaf", "running", "others wait", "stopping", "lapsed", "large", "cold"]
)
async def test_other_turns_wait_for_a_claim(scene: Scene, why: str) -> None:
    lease = await warm(scene)
    new = scene.new_turn()
    match why:
        case "running":
            await begun(scene)
        case "others wait":
            await scene.offer(scene.new_turn(OTHER_C, tenant=TenantId("u" * 20)))
        case "stopping":
            await scene.store.conversations.update(lease, ConversationState.STOPPING)
        case "lapsed":
            await scene.lapse()
        case "large":
            new = replace(new, request=new.request.model_copy(update={"prompt": (LONG,)}))
        case "cold":
            await scene.store.leases.release(lease, ConversationState.COLD)
    if why in ("deaf", "lapsed", "cold"):
        assert not (await scene.offer(new)).is_told
    else:
        assert (await told(scene, new)).begun is None
    assert await scene.turn_state(new.request.turn) is TurnState.QUEUED
    await scene.redis.delete(scene.keys.ring())
    if why == "deaf":
        assert (await scene.claim(lease)).record.begun is None


async def test_a_lost_message_is_made_up_for_by_a_claim(scene: Scene) -> None:
    lease = await warm(scene)
    turn = await begun(scene)
    for _ in range(2):
        claimed = await scene.claim(lease)
        assert (claimed.record.turn, claimed.is_adoption) == (turn, False)
        assert (claimed.record.attempt, claimed.record.begun) == (1, 1)


async def test_messages_are_counted_so_that_an_old_one_is_known(scene: Scene) -> None:
    lease = await warm(scene)
    serials = []
    for _ in range(3):
        waits = await told(scene)
        assert waits.begun is not None
        serials.append(waits.begun.serial)
        await scene.store.turns.finish(lease, waits.turn, 1, DONE, idle_timeout_s=60)
    assert serials == [1, 2, 3]


async def test_a_sweep_tells_the_owner_again_until_something_is_logged(scene: Scene) -> None:
    lease = await warm(scene)
    turn = await begun(scene)
    async with Listener(scene, scene.keys.control_channel(W1)) as listener:
        await due(scene, turn)
        assert await scene.store.turns.unclaimed(older_than_ms=0) == []
        assert decode_control(await listener.next()) == TurnWaits(conversation=C, turn=turn)
        await scene.store.log.append(lease, turn, text_events(1, 1))
        await due(scene, turn)
        assert await scene.store.turns.unclaimed(older_than_ms=0) == []
        await scene.offer(scene.new_turn())
        waits = decode_control(await listener.next())
    assert isinstance(waits, TurnWaits)
    assert waits.turn != turn, "nothing was said of it again"


async def due(scene: Scene, turn: TurnId) -> None:
    await scene.redis.zadd(scene.keys.turns_open(), {turn: 0})


async def test_what_a_dead_owner_may_have_handed_out_is_adopted_and_not_begun_again(
    scene: Scene,
) -> None:
    await warm(scene)
    turn = await begun(scene)
    await scene.lapse()
    claimed = await scene.claim(await scene.acquire(W2))
    assert (claimed.record.turn, claimed.is_adoption) == (turn, True)
    assert (claimed.record.state, claimed.record.attempt) == (TurnState.RUNNING, 1)


async def test_with_its_first_event_it_runs(scene: Scene) -> None:
    lease = await warm(scene)
    turn = await begun(scene)
    await scene.store.log.append(lease, turn, text_events(1, 1))
    assert await scene.turn_state(turn) is TurnState.RUNNING


async def test_an_owner_that_goes_without_it_leaves_it_waiting(scene: Scene) -> None:
    """It retired, handed over or made room, and may never have heard of it."""
    lease = await warm(scene)
    turn = await begun(scene)
    assert await scene.store.leases.release(lease, ConversationState.COLD) == turn
    assert await scene.turn_state(turn) is TurnState.QUEUED

    claimed = await scene.claim(await scene.acquire(W2))

    assert (claimed.record.turn, claimed.is_adoption) == (turn, False)
    assert (claimed.record.attempt, claimed.record.begun) == (1, None)


async def test_an_owner_that_works_on_it_leaves_it_to_its_successor(scene: Scene) -> None:
    lease = await warm(scene)
    turn = await begun(scene)
    assert await scene.store.leases.release(lease, ConversationState.BUSY, runs=turn) is None
    claimed = await scene.claim(await scene.acquire(W2))
    assert (claimed.record.turn, claimed.is_adoption) == (turn, True)


async def test_it_can_be_given_back_like_any_claimed_turn(scene: Scene) -> None:
    lease = await warm(scene)
    turn = await begun(scene)
    assert await scene.store.turns.requeue(lease, turn)
    claimed = await scene.claim(lease)
    assert (claimed.record.turn, claimed.record.attempt) == (turn, 2)
    assert claimed.record.begun is None


async def test_one_that_waits_for_a_container_may_start_elsewhere(scene: Scene) -> None:
    """The container was gone, so no agent can have it."""
    lease = await warm(scene)
    turn = await begun(scene)
    for state in (ConversationState.STOPPING, ConversationState.COLD, ConversationState.STARTING):
        await scene.store.conversations.update(lease, state)
    await scene.lapse()
    claimed = await scene.claim(await scene.acquire(W2))
    assert (claimed.record.turn, claimed.record.state) == (turn, TurnState.CLAIMED)


async def test_a_cancel_that_comes_before_the_message_holds(scene: Scene) -> None:
    lease = await warm(scene)
    turn = await begun(scene)
    state = await scene.store.turns.cancel(turn, tenant=TENANT, reason="client_gone")
    assert state is TurnState.CLAIMED
    assert (await scene.claim(lease)).record.cancel == "client_gone"
    assert (await scene.store.leases.renew([lease])).cancelled == {C: (turn, "client_gone")}


async def test_a_cancelled_one_that_nobody_has_ends_with_the_next_claim(scene: Scene) -> None:
    lease = await warm(scene)
    turn = await begun(scene)
    await scene.store.turns.cancel(turn, tenant=TENANT, reason="client_gone")
    await scene.store.leases.release(lease, ConversationState.COLD)
    assert await scene.store.turns.claim(await scene.acquire(W2)) is None
    assert await scene.turn_state(turn) is TurnState.CANCELLED


async def test_a_deleted_conversation_takes_it_along(scene: Scene) -> None:
    lease = await warm(scene)
    turn = await begun(scene)
    await scene.store.conversations.delete(C, tenant=TENANT, reason="gone", is_forced=True)
    assert await scene.turn_state(turn) is TurnState.CANCELLED
    assert C in (await scene.store.leases.renew([lease])).lost
    with pytest.raises(TurnNotFound):
        await scene.store.turns.cancel(TurnId("turn_0"), tenant=TENANT, reason="x")


async def test_its_container_is_not_reaped(scene: Scene) -> None:
    await warm(scene)
    await begun(scene)
    assert not await scene.store.conversations.reap(C, W1)


async def test_its_base_comes_with_its_end(scene: Scene) -> None:
    lease = await remembering(scene)
    turn = await begun(scene)
    await hear(scene, lease, turn)
    end = DONE.model_copy(update={"checkpoint": "at-b"})
    await scene.store.turns.finish(lease, turn, 2, end, idle_timeout_s=60, base=GOES_ON)
    after = await claim_told(scene, await told(scene, scene.new_turn(sent=("x", "y"))))
    assert [(a.digest[0], a.checkpoint) for a in after.accepted] == [("a", "at-a"), ("b", "at-b")]


async def test_a_base_on_record_stands(scene: Scene) -> None:
    """Its owner decided otherwise and said so; an adopter says it again."""
    lease = await remembering(scene)
    turn = await begun(scene)
    fresh = TurnBase(kind=BaseKind.FRESH, known=1, digest="f" * 16)
    await scene.store.turns.start(lease, turn, base=fresh)
    await scene.store.turns.start(lease, turn, base=GOES_ON)
    await hear(scene, lease, turn)
    await scene.store.turns.finish(lease, turn, 2, DONE, idle_timeout_s=60, base=GOES_ON)
    after = await claim_told(scene, await told(scene))
    assert after.accepted == (Accepted(digest="f" * 16, turn=turn),)


async def test_an_adopter_of_one_that_no_agent_got_may_decide_otherwise(scene: Scene) -> None:
    await remembering(scene)
    turn = await begun(scene)
    await scene.lapse()
    lease = await scene.acquire(W2)
    await scene.claim(lease)
    fresh = TurnBase(kind=BaseKind.FRESH, known=1, digest="f" * 16)
    await scene.store.turns.start(lease, turn, base=fresh)
    record = await scene.store.turns.get(turn)
    assert record is not None
    assert record.base == fresh


async def test_one_that_nobody_can_read_leaves_a_doubt(scene: Scene) -> None:
    lease = await remembering(scene)
    turn = await begun(scene)
    await scene.store.turns.finish(
        lease, turn, 1, failed(), idle_timeout_s=60, memory=Memory.UNKNOWN
    )
    after = await claim_told(scene, await told(scene, scene.new_turn(sent=("x", "y"))))
    assert [a.digest for a in after.accepted] == ["a" * 16, ""]


async def test_what_is_stopped_after_it_began_stays_behind_it(scene: Scene) -> None:
    """An adopter finds the accepted prompts as they were when the turn was begun."""
    lease = await remembering(scene)
    turn = await begun(scene)
    stopped = await scene.submit(is_thin=True)
    await scene.store.turns.cancel(stopped, tenant=TENANT, reason="stop")
    claimed = await scene.claim(lease)
    assert (claimed.known, claimed.unheard) == (1, ())
    await hear(scene, lease, turn)
    await scene.store.turns.finish(lease, turn, 2, CANCELLED, idle_timeout_s=60, base=GOES_ON)
    after = await claim_told(scene, await told(scene))
    assert [a.digest[0] for a in after.accepted] == ["a", "b"]
    assert [said.prompt for said in after.unheard] == [(TextBlock(text="Hello"),)]


def with_profile(scene: Scene, profile: str | None) -> NewTurn:
    new = scene.new_turn()
    options = ConversationOptions(egress_profile=profile)
    return replace(new, request=new.request.model_copy(update={"options": options}))


async def test_a_turn_has_the_options_of_when_it_was_asked_for(scene: Scene) -> None:
    """A later turn's choice went to those that still waited before it."""
    for profile in ("first", None, "second"):
        await scene.offer(with_profile(scene, profile))
    lease = await scene.acquire()
    found = []
    for _ in range(3):
        claimed = await scene.claim(lease)
        found.append(claimed.request.options.egress_profile)
        turn = claimed.record.turn
        await scene.store.turns.finish(lease, turn, 1, DONE, idle_timeout_s=60)
    assert found == ["first", "first", "second"]


async def test_a_begun_turn_has_its_conversations_options(scene: Scene) -> None:
    await scene.offer(with_profile(scene, "first"))
    lease = await scene.acquire()
    turn = (await scene.claim(lease)).record.turn
    await scene.warm_up(lease)
    await scene.store.turns.finish(lease, turn, 1, DONE, idle_timeout_s=60)
    heard = await claim_told(scene, await told(scene))
    assert heard.request.options.egress_profile == "first"
