"""The life of a turn in Redis: asked for, claimed, begun, ended; once, in order, in public."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace

import pytest

from infra.runtime.identity import new_turn_id
from infra.store.turns.turns import ATTEMPTS_MAX, REFUSALS_MAX, OpenTurnRef, Submitted
from infra.wire.errors import ErrorCode, IllegalTransition, LeaseLost, RequestRefused, TurnNotFound
from infra.wire.events import TurnEnded, Usage, decode_event, encode_event, is_end
from infra.wire.frames import Frame, split_frames
from infra.wire.ids import TenantId, TurnId
from infra.wire.options import ConversationOptions
from infra.wire.states import ConversationState, TurnState
from infra.wire.text.words import SENTENCES
from infra.wire.turns import OnDisconnect
from tests.contract.store.listening import Listener
from tests.contract.store.scene import (
    CANCELLED,
    DONE,
    OTHER_C,
    OTHER_TENANT,
    REPLICA,
    TENANT,
    W1,
    W2,
    C,
    Scene,
    failed,
    text_events,
)


async def end_of(scene: Scene, turn: TurnId) -> tuple[int, TurnEnded]:
    """The one end event of a turn's log."""
    page = await scene.store.log.read(turn, after=0)
    [(n, payload)] = [(n, payload) for n, payload in page.events if is_end(payload)]
    end = decode_event(payload)
    assert isinstance(end, TurnEnded)
    assert encode_event(end) == payload, "not the canonical bytes"
    return n, end


# Submit


async def test_a_submitted_turn_is_on_record_as_it_was_asked_for(scene: Scene) -> None:
    new = scene.new_turn(label="my thread")

    submitted = await scene.offer(new)

    turn = new.request.turn
    assert submitted == Submitted(turn, created=True, owner=None, position=0)
    record = await scene.store.turns.get(turn)
    assert record is not None
    assert (record.state, record.attempt, record.seq) == (TurnState.QUEUED, 0, 0)
    assert (record.conversation, record.tenant, record.replica) == (C, TENANT, REPLICA)
    assert record.sealed_key == "v1.sealed"
    assert record.on_disconnect is OnDisconnect.CONTINUE
    conversation = await scene.store.conversations.get(C)
    assert conversation is not None
    assert (conversation.state, conversation.label) == (ConversationState.COLD, "my thread")
    assert conversation.tenant == TENANT
    assert await scene.counts() == {"open": 1, "idle": 0}


async def test_the_request_comes_out_as_it_went_in(scene: Scene) -> None:
    new = scene.new_turn()
    await scene.offer(new)

    assert (await scene.claim(await scene.acquire())).request == new.request


async def test_nothing_of_a_turn_lives_for_ever(scene: Scene) -> None:
    await scene.offer(scene.new_turn(idempotency="digest"))

    names = [key async for key in scene.redis.scan_iter(f"{scene.keys.prefix}:*")]
    endless = {name for name in names if await scene.redis.pttl(name) < 0}

    assert endless == {scene.keys.turns_open().encode()}


async def test_turns_of_a_conversation_queue_up_in_order(scene: Scene) -> None:
    submitted = [await scene.offer(scene.new_turn()) for _ in range(3)]
    assert [s.position for s in submitted] == [0, 1, 2]

    lease = await scene.acquire()
    for expected in submitted:
        claimed = await scene.claim(lease)
        assert claimed.record.turn == expected.turn
        await scene.store.turns.finish(lease, expected.turn, 1, DONE, idle_timeout_s=60)
    assert await scene.store.turns.claim(lease) is None


async def test_a_listening_owner_is_told_of_a_new_turn(scene: Scene) -> None:
    await scene.begin()
    deaf = await scene.offer(scene.new_turn())
    async with Listener(scene, scene.keys.control_channel(W1)) as listener:
        heard = await scene.offer(scene.new_turn())
        assert b'"type":"turn_waits"' in await listener.next()

    assert heard.is_told
    assert deaf.owner == W1
    assert not deaf.is_told, "nobody listens: it has to be enqueued"


async def test_a_turn_behind_a_running_one_knows_its_owner_and_place(scene: Scene) -> None:
    await scene.begin(W1)

    submitted = await scene.offer(scene.new_turn())

    assert (submitted.owner, submitted.position) == (W1, 1)


async def test_no_more_turns_wait_than_allowed(scene: Scene) -> None:
    results = await asyncio.gather(
        *(scene.offer(scene.new_turn(), waiting_max=8) for _ in range(20)), return_exceptions=True
    )

    accepted = [r for r in results if isinstance(r, Submitted)]
    refused = [r for r in results if isinstance(r, RequestRefused)]
    assert (len(accepted), len(refused)) == (8, 12)
    assert sorted(s.position for s in accepted) == list(range(8))
    assert {r.code for r in refused} == {ErrorCode.QUEUE_FULL}
    assert all(r.retry_after_s for r in refused)
    assert (await scene.counts())["open"] == 8
    # Another conversation is not concerned.
    await scene.offer(scene.new_turn(OTHER_C), waiting_max=8)


async def test_twenty_repeats_at_once_are_one_turn(scene: Scene) -> None:
    results = await asyncio.gather(
        *(scene.offer(scene.new_turn(idempotency="digest")) for _ in range(20))
    )

    assert len({r.turn for r in results}) == 1
    assert sum(r.created for r in results) == 1
    assert await scene.redis.llen(scene.keys.todo(C)) == 1  # type: ignore[misc]


async def test_the_turn_that_a_request_would_repeat_is_found(scene: Scene) -> None:
    new = scene.new_turn(idempotency="digest")
    tenant, repeated = new.request.tenant, scene.store.turns.repeated
    assert await repeated(tenant, "digest") is None
    first = await scene.offer(new)
    assert await repeated(tenant, "digest") == first.turn
    assert await repeated(tenant, "another") is None
    assert await repeated(TenantId("0" * 20), "digest") is None


async def test_a_repeat_finds_its_turn_running_and_ended(scene: Scene) -> None:
    first = await scene.offer(scene.new_turn(idempotency="digest"))
    lease = await scene.acquire()
    await scene.claim(lease)
    assert (await scene.offer(scene.new_turn(idempotency="digest"))).turn == first.turn

    await scene.store.turns.finish(lease, first.turn, 1, failed(), idle_timeout_s=60)
    again = await scene.offer(scene.new_turn(idempotency="digest"))
    assert (again.turn, again.created) == (first.turn, False)


async def test_a_repeat_of_a_turn_nobody_began_is_a_new_turn(scene: Scene) -> None:
    first = await scene.offer(scene.new_turn(idempotency="digest"))
    await scene.store.turns.expire(first.turn)

    again = await scene.offer(scene.new_turn(idempotency="digest"))

    assert again.created
    assert again.turn != first.turn


async def test_turn_that_is_not_to_be_had_again_is_superseded_once(scene: Scene) -> None:
    first = await scene.offer(scene.new_turn(idempotency="digest"))
    lease = await scene.acquire()
    await scene.claim(lease)
    await scene.store.turns.finish(lease, first.turn, 1, DONE, idle_timeout_s=60)

    new = replace(scene.new_turn(idempotency="digest"), supersedes=first.turn)
    second = await scene.offer(new)
    late = replace(scene.new_turn(idempotency="digest"), supersedes=first.turn)
    assert second.created
    assert (await scene.offer(late)).turn == second.turn


async def test_delivered_answer_is_on_record(scene: Scene) -> None:
    _, turn = await scene.begin()
    await scene.store.turns.mark_delivered(turn)
    record = await scene.store.turns.get(turn)
    assert record is not None
    assert record.is_delivered

    gone = TurnId("turn_gone")
    await scene.store.turns.mark_delivered(gone)
    assert not await scene.redis.exists(scene.keys.turn(gone))


async def test_another_tenants_equal_digest_is_another_turn(scene: Scene) -> None:
    first = await scene.offer(scene.new_turn(idempotency="digest"))
    other = await scene.offer(scene.new_turn(OTHER_C, idempotency="digest", tenant=OTHER_TENANT))

    assert other.created
    assert other.turn != first.turn


async def test_a_submit_whose_answer_was_lost_may_be_repeated(scene: Scene) -> None:
    new = scene.new_turn()

    assert await scene.offer(new) == await scene.offer(new)
    assert await scene.redis.llen(scene.keys.todo(C)) == 1  # type: ignore[misc]


async def test_a_submit_takes_a_warm_conversation_off_the_idle_list(scene: Scene) -> None:
    lease, turn = await scene.begin()
    await scene.store.turns.finish(lease, turn, 1, DONE, idle_timeout_s=60)
    assert (await scene.counts())["idle"] == 1

    await scene.submit()

    assert (await scene.counts())["idle"] == 0


# Claim


async def test_a_claim_counts_the_attempt_and_sets_the_fence(scene: Scene) -> None:
    turn = await scene.submit()
    lease = await scene.acquire()

    claimed = await scene.claim(lease)

    assert not claimed.is_adoption
    assert (claimed.record.turn, claimed.record.attempt) == (turn, 1)
    assert (claimed.record.state, claimed.record.fence) == (TurnState.CLAIMED, lease.fence)


async def test_a_claim_whose_answer_was_lost_gives_the_same_attempt_again(scene: Scene) -> None:
    await scene.submit()
    lease = await scene.acquire()

    first, again = await scene.claim(lease), await scene.claim(lease)

    assert replace(again, age_s=first.age_s) == first
    assert again.age_s >= first.age_s


async def test_a_turns_time_counts_from_its_first_claim(scene: Scene) -> None:
    turn = await scene.submit()
    lease = await scene.acquire()
    assert (await scene.claim(lease)).age_s < 5
    await scene.store.turns.start(lease, turn)
    await scene.redis.hincrby(scene.keys.turn(turn), "claimed", -100_000)  # type: ignore[misc]
    await scene.lapse()
    adopted = await scene.claim(await scene.acquire(W2))
    assert 100 <= adopted.age_s < 110
    assert adopted.left_s == adopted.request.deadline_s - adopted.age_s
    await scene.redis.hincrby(scene.keys.turn(turn), "claimed", -1_000_000)  # type: ignore[misc]
    assert (await scene.claim(await scene.acquire(W2))).left_s == 0


async def test_twenty_claims_at_once_are_one_attempt(scene: Scene) -> None:
    turn = await scene.submit()
    await scene.submit()
    lease = await scene.acquire()

    claims = await asyncio.gather(*(scene.claim(lease) for _ in range(20)))

    assert {(c.record.turn, c.record.attempt) for c in claims} == {(turn, 1)}


async def test_a_running_turn_is_adopted_as_often_as_workers_change(scene: Scene) -> None:
    lease, turn = await scene.begin(W1)
    await scene.store.log.append(lease, turn, text_events(1, 2))
    for worker in (W2, W1, W2, W1):
        await scene.lapse()
        claimed = await scene.claim(await scene.acquire(worker))
        assert claimed.is_adoption
        assert (claimed.record.turn, claimed.record.attempt, claimed.record.seq) == (turn, 1, 2)


async def test_adoptions_of_a_turn_that_gets_nowhere_are_counted(scene: Scene) -> None:
    lease, turn = await scene.begin(W1)
    await scene.store.log.append(lease, turn, text_events(1, 1))
    for number, worker in enumerate((W2, W1, W2), start=1):
        await scene.lapse()
        lease = await scene.acquire(worker)
        assert (await scene.claim(lease)).record.adoptions == number
        assert (await scene.claim(lease)).record.adoptions == number, "a repeated claim"

    await scene.store.log.append(lease, turn, text_events(2, 2))
    await scene.lapse()
    lease = await scene.acquire(W1)
    assert (await scene.claim(lease)).record.adoptions == 1, "it got on"

    await scene.store.leases.release(lease, ConversationState.BUSY)
    lease = await scene.acquire(W2)
    assert (await scene.claim(lease)).record.adoptions == 1, "it was handed over"


async def test_a_poison_turn_gets_two_starts_and_then_fails_in_public(scene: Scene) -> None:
    turn = await scene.submit()
    waiting = await scene.submit()
    for attempt in range(1, ATTEMPTS_MAX + 1):
        claimed = await scene.claim(await scene.acquire(W1))
        assert (claimed.record.turn, claimed.record.attempt) == (turn, attempt)
        await scene.lapse()

    async with Listener(scene, scene.keys.replica_channel(REPLICA)) as listener:
        lease = await scene.acquire(W2)
        assert (await scene.claim(lease)).record.turn == waiting
        frames = list(split_frames(await listener.next()))

    n, end = await end_of(scene, turn)
    assert frames == [Frame(turn, lease.fence, n, encode_event(end))]
    assert end.state is TurnState.FAILED
    assert end.error
    assert end.error.code is ErrorCode.CONTAINER_FAILED
    record = await scene.store.turns.get(turn)
    assert record
    assert record.sealed_key is None
    assert record.reason == "container_failed"


async def test_a_turn_cancelled_while_its_owner_was_gone_is_not_started_again(
    scene: Scene,
) -> None:
    turn = await scene.submit()
    await scene.claim(await scene.acquire(W1))
    await scene.store.turns.cancel(turn, tenant=TENANT, reason="client gone")
    await scene.lapse()

    assert await scene.store.turns.claim(await scene.acquire(W2)) is None

    assert (await end_of(scene, turn))[1].state is TurnState.CANCELLED


async def test_a_turn_whose_request_is_gone_fails_instead_of_blocking_the_queue(
    scene: Scene,
) -> None:
    turn = await scene.submit()
    following = await scene.submit()
    await scene.redis.delete(scene.keys.turn_request(turn))

    assert (await scene.claim(await scene.acquire())).record.turn == following
    assert await scene.turn_state(turn) is TurnState.FAILED


async def test_a_forgotten_turn_in_the_queue_is_skipped(scene: Scene) -> None:
    turn = await scene.submit()
    following = await scene.submit()
    await scene.redis.delete(scene.keys.turn(turn))

    assert (await scene.claim(await scene.acquire())).record.turn == following


async def test_a_claim_makes_a_warm_conversation_busy(scene: Scene) -> None:
    lease, turn = await scene.begin()
    await scene.store.turns.finish(lease, turn, 1, DONE, idle_timeout_s=60)
    assert await scene.conversation_state() is ConversationState.WARM

    await scene.submit()
    await scene.claim(lease)

    assert await scene.conversation_state() is ConversationState.BUSY


# Start and requeue


async def test_a_started_turn_runs_and_may_be_started_twice(scene: Scene) -> None:
    turn = await scene.submit()
    lease = await scene.acquire()
    await scene.claim(lease)

    await scene.store.turns.start(lease, turn)
    await scene.store.turns.start(lease, turn)

    assert await scene.turn_state(turn) is TurnState.RUNNING


async def test_only_the_claimed_turn_can_be_started(scene: Scene) -> None:
    turn = await scene.submit()
    lease = await scene.acquire()

    with pytest.raises(LeaseLost):
        await scene.store.turns.start(lease, turn)


async def test_a_turn_that_never_began_goes_back_to_the_head_of_the_queue(scene: Scene) -> None:
    turn, following = await scene.submit(), await scene.submit()
    lease = await scene.acquire()
    await scene.claim(lease)

    assert await scene.store.turns.requeue(lease, turn)

    assert await scene.turn_state(turn) is TurnState.QUEUED
    again = await scene.claim(lease)
    assert (again.record.turn, again.record.attempt) == (turn, 2)
    assert not await scene.store.turns.requeue(lease, turn), "attempts are spent"
    await scene.store.turns.finish(lease, turn, 1, failed(), idle_timeout_s=60)
    assert (await scene.claim(lease)).record.turn == following


async def test_a_turn_whose_host_could_not_try_keeps_its_attempts(scene: Scene) -> None:
    turn = await scene.submit()
    lease = await scene.acquire()
    for _ in range(REFUSALS_MAX):
        assert (await scene.claim(lease)).record.attempt == 1
        assert await scene.store.turns.requeue(lease, turn, is_counted=False)
        assert await scene.turn_state(turn) is TurnState.QUEUED
    assert (await scene.claim(lease)).record.attempt == 1
    assert await scene.store.turns.requeue(lease, turn, is_counted=False), "its first start"
    assert (await scene.claim(lease)).record.attempt == 2
    assert not await scene.store.turns.requeue(lease, turn, is_counted=False), "and its last"


async def test_a_turn_whose_log_has_begun_never_goes_back(scene: Scene) -> None:
    turn = await scene.submit()
    lease = await scene.acquire()
    await scene.claim(lease)
    await scene.store.log.append(lease, turn, text_events(1, 1))

    assert not await scene.store.turns.requeue(lease, turn)
    assert await scene.turn_state(turn) is TurnState.RUNNING


async def test_a_cancelled_turn_that_goes_back_ends_instead(scene: Scene) -> None:
    turn = await scene.submit()
    lease = await scene.acquire()
    await scene.claim(lease)
    await scene.store.turns.cancel(turn, tenant=TENANT, reason="client gone")

    assert await scene.store.turns.requeue(lease, turn)

    assert (await end_of(scene, turn))[1] == CANCELLED
    assert await scene.store.turns.claim(lease) is None


# Finish


async def test_a_finished_turn_is_closed_in_every_place(scene: Scene) -> None:
    lease, turn = await scene.begin()
    await scene.store.log.append(lease, turn, text_events(1, 3))
    end = TurnEnded(state=TurnState.DONE, usage=Usage(input_tokens=3, output_tokens=5))

    assert not await scene.store.turns.finish(lease, turn, 4, end, idle_timeout_s=60)

    assert await end_of(scene, turn) == (4, end)
    record = await scene.store.turns.get(turn)
    assert record is not None
    assert (record.state, record.seq, record.sealed_key) == (TurnState.DONE, 4, None)
    assert record.ended_ms is not None
    assert await scene.counts() == {"open": 0, "idle": 1}
    assert await scene.redis.zcard(scene.keys.tenant_running(TENANT)) == 0
    conversation = await scene.store.conversations.get(C)
    assert conversation is not None
    assert (conversation.state, conversation.turns) == (ConversationState.WARM, 1)
    assert conversation.turn is None
    assert conversation.idle_at_ms is not None
    for key in (
        scene.keys.turn(turn),
        scene.keys.turn_events(turn),
    ):
        assert 3_590_000 < await scene.redis.pttl(key) <= 3_600_000
    assert not await scene.redis.exists(scene.keys.turn_request(turn)), "nobody reads it any more"


async def test_finishing_twice_is_harmless(scene: Scene) -> None:
    lease, turn = await scene.begin()
    await scene.store.turns.finish(lease, turn, 1, DONE, idle_timeout_s=60)

    await scene.store.turns.finish(lease, turn, 2, failed(), idle_timeout_s=60)

    assert await end_of(scene, turn) == (1, DONE)
    conversation = await scene.store.conversations.get(C)
    assert conversation
    assert conversation.turns == 1


async def test_finish_says_whether_another_turn_waits(scene: Scene) -> None:
    lease, turn = await scene.begin()
    await scene.submit()

    assert await scene.store.turns.finish(lease, turn, 1, DONE, idle_timeout_s=60)
    assert (await scene.counts())["idle"] == 0


async def test_an_end_that_append_logged_already_is_not_logged_twice(scene: Scene) -> None:
    lease, turn = await scene.begin()
    await scene.store.log.append(lease, turn, [*text_events(1, 1), (2, encode_event(DONE))])

    await scene.store.turns.finish(lease, turn, 2, DONE, idle_timeout_s=60)

    assert await end_of(scene, turn) == (2, DONE)


async def test_an_end_declared_under_a_used_number_still_gets_into_the_log(scene: Scene) -> None:
    lease, turn = await scene.begin()
    await scene.store.log.append(lease, turn, text_events(1, 3))

    await scene.store.turns.finish(lease, turn, 2, failed(), idle_timeout_s=60)

    assert await end_of(scene, turn) == (4, failed())


async def test_a_turn_that_ends_with_its_first_event_passes_through_running(scene: Scene) -> None:
    turn = await scene.submit()
    lease = await scene.acquire()
    await scene.claim(lease)

    await scene.store.turns.finish(lease, turn, 1, DONE, idle_timeout_s=60)

    assert await scene.turn_state(turn) is TurnState.DONE


async def test_a_claimed_turn_cannot_expire(scene: Scene) -> None:
    lease, turn = await scene.begin()

    with pytest.raises(IllegalTransition):
        await scene.store.turns.finish(
            lease, turn, 1, TurnEnded(state=TurnState.EXPIRED), idle_timeout_s=60
        )
    assert not await scene.store.turns.expire(turn)


# Cancel and expire


@pytest.mark.parametrize("way", ["cancel", "expire"])
async def test_a_waiting_turn_ends_at_once_and_its_relay_is_told(scene: Scene, way: str) -> None:
    turn = await scene.submit()
    async with Listener(scene, scene.keys.replica_channel(REPLICA)) as listener:
        if way == "cancel":
            state = await scene.store.turns.cancel(turn, tenant=TENANT, reason="client gone")
            assert state is TurnState.CANCELLED
        else:
            assert await scene.store.turns.expire(turn)
        frames = list(split_frames(await listener.next()))

    n, end = await end_of(scene, turn)
    assert n == 1
    assert frames == [Frame(turn, type(frames[0].fence)(0), 1, encode_event(end))]
    if way == "expire":
        assert end.error
        assert end.error.code is ErrorCode.QUEUE_TIMEOUT
        assert end.error.message == SENTENCES[ErrorCode.QUEUE_TIMEOUT]
    record = await scene.store.turns.get(turn)
    assert record
    assert record.sealed_key is None
    assert (await scene.counts())["open"] == 0
    assert await scene.store.turns.claim(await scene.acquire()) is None


async def test_the_owner_of_a_running_turn_is_told_to_cancel_it(scene: Scene) -> None:
    lease, turn = await scene.begin()
    async with Listener(scene, scene.keys.control_channel(W1)) as listener:
        state = await scene.store.turns.cancel(turn, tenant=TENANT, reason="client gone")
        assert b'"type":"cancel"' in await listener.next()

    assert state is TurnState.RUNNING
    record = await scene.store.turns.get(turn)
    assert record
    assert record.cancel == "client gone"
    await scene.store.turns.finish(lease, turn, 1, CANCELLED, idle_timeout_s=60)
    record = await scene.store.turns.get(turn)
    assert record
    assert record.reason == "client gone"


async def test_the_first_reason_to_cancel_stays(scene: Scene) -> None:
    _, turn = await scene.begin()
    for reason in ("first", "second"):
        await scene.store.turns.cancel(turn, tenant=TENANT, reason=reason)

    record = await scene.store.turns.get(turn)
    assert record
    assert record.cancel == "first"


async def test_cancelling_an_ended_turn_says_how_it_ended(scene: Scene) -> None:
    lease, turn = await scene.begin()
    await scene.store.turns.finish(lease, turn, 1, DONE, idle_timeout_s=60)

    assert await scene.store.turns.cancel(turn, tenant=TENANT, reason="late") is TurnState.DONE


async def test_another_tenants_turn_is_not_found(scene: Scene) -> None:
    turn = await scene.submit()

    with pytest.raises(TurnNotFound):
        await scene.store.turns.cancel(turn, tenant=OTHER_TENANT, reason="not mine")
    with pytest.raises(TurnNotFound):
        await scene.store.turns.cancel(new_turn_id(), tenant=TENANT, reason="unknown")
    assert await scene.turn_state(turn) is TurnState.QUEUED


async def test_a_warm_conversation_whose_waiting_turn_is_cancelled_is_idle_again(
    scene: Scene,
) -> None:
    lease, turn = await scene.begin()
    await scene.store.turns.finish(lease, turn, 1, DONE, idle_timeout_s=60)
    waiting = await scene.submit()

    await scene.store.turns.cancel(waiting, tenant=TENANT, reason="client gone")

    assert (await scene.counts())["idle"] == 1


async def test_of_a_cancel_and_a_claim_one_wins(scene: Scene) -> None:
    for _ in range(10):
        turn = await scene.submit()
        lease = await scene.acquire()
        claimed, state = await asyncio.gather(
            scene.store.turns.claim(lease),
            scene.store.turns.cancel(turn, tenant=TENANT, reason="race"),
        )
        if claimed is None:
            assert state is TurnState.CANCELLED
        else:
            assert state is TurnState.CLAIMED
            await scene.store.turns.finish(lease, turn, 1, CANCELLED, idle_timeout_s=60)
        assert await scene.turn_state(turn) is TurnState.CANCELLED


# Sweeps


async def test_a_turn_nobody_claims_is_found_and_not_by_every_sweeper(scene: Scene) -> None:
    turn = await scene.submit()
    assert await scene.store.turns.unclaimed(older_than_ms=60_000) == []
    await scene.redis.zadd(scene.keys.turns_open(), {turn: 1})

    [found] = await scene.store.turns.unclaimed(older_than_ms=60_000)

    assert (found.turn, found.conversation, found.state) == (turn, C, TurnState.QUEUED)
    assert found.owner is None
    assert await scene.store.turns.unclaimed(older_than_ms=60_000) == []


async def test_a_begun_turn_is_found_once_its_owner_is_gone(scene: Scene) -> None:
    _, turn = await scene.begin(W1)
    await scene.redis.zadd(scene.keys.turns_open(), {turn: 1})
    assert await scene.store.turns.unclaimed(older_than_ms=1) == [], "its owner lives"

    await scene.lapse()
    await scene.redis.zadd(scene.keys.turns_open(), {turn: 1})
    [found] = await scene.store.turns.unclaimed(older_than_ms=1)
    assert (found.turn, found.owner) == (turn, None)


async def test_every_sweeper_learns_for_how_long_a_begun_turn_has_had_no_owner(
    scene: Scene,
) -> None:
    """Sweeps find a turn in turns, so one of many workers might wait long to find it twice."""
    _, turn = await scene.begin(W1)

    async def unowned_ms(*, is_left: bool = False) -> int:
        await scene.redis.zadd(scene.keys.turns_open(), {turn: 1})
        [found] = await scene.store.turns.unclaimed(older_than_ms=1)
        assert found.is_left is is_left
        return found.unowned_ms

    await scene.lapse()
    assert 15_000 <= await unowned_ms() < 16_000, "silent for a lease's length"
    since = await scene.redis.hget(scene.keys.turn(turn), "unowned")  # type: ignore[misc]
    earlier = str(int(since or 0) - 5_000)
    await scene.redis.hset(scene.keys.turn(turn), "unowned", earlier)  # type: ignore[misc]
    assert 20_000 <= await unowned_ms() < 21_000

    lease = await scene.acquire(W2)
    await scene.claim(lease)
    await scene.store.leases.release(lease, ConversationState.BUSY)
    assert await unowned_ms(is_left=True) < 1_000, "it had an owner again"


async def test_an_owner_that_was_silent_and_is_back_has_its_silence_forgotten(
    scene: Scene,
) -> None:
    """Else the next one, be it a restart of seconds, would be taken for the end of its host."""
    lease, turn = await scene.begin(W1)

    async def look() -> list[OpenTurnRef]:
        await scene.redis.zadd(scene.keys.turns_open(), {turn: 1})
        return await scene.store.turns.unclaimed(older_than_ms=1)

    await scene.lapse()
    assert len(await look()) == 1
    since = await scene.redis.hget(scene.keys.turn(turn), "unowned")  # type: ignore[misc]
    earlier = str(int(since or 0) - 60_000)
    await scene.redis.hset(scene.keys.turn(turn), "unowned", earlier)  # type: ignore[misc]
    await scene.store.leases.renew([lease])
    assert await look() == [], "it has its owner"

    await scene.store.leases.release(lease, ConversationState.BUSY)

    [found] = await look()
    assert found.unowned_ms < 1_000


async def test_a_begun_turn_is_looked_at_when_its_lease_would_lapse(scene: Scene) -> None:
    _, turn = await scene.begin(W1)
    await scene.redis.zadd(scene.keys.turns_open(), {turn: 1})
    await scene.redis.pexpire(scene.keys.lease(C), 9_000)
    await scene.store.turns.unclaimed(older_than_ms=2_000)

    seconds, micros = await scene.redis.time()
    score = await scene.redis.zscore(scene.keys.turns_open(), turn)
    assert score is not None
    next_look_in = score + 2_000 - (int(seconds) * 1000 + int(micros) // 1000)
    assert 7_000 < next_look_in <= 9_100


async def test_a_begun_turn_its_new_owner_never_claimed_is_offered_to_that_owner(
    scene: Scene,
) -> None:
    _, turn = await scene.begin(W1)
    await scene.lapse()
    await scene.acquire(W2)
    await scene.redis.zadd(scene.keys.turns_open(), {turn: 1})

    [found] = await scene.store.turns.unclaimed(older_than_ms=1)

    assert (found.turn, found.owner) == (turn, W2)


async def test_the_longer_a_turn_waits_the_rarer_it_is_looked_at(scene: Scene) -> None:
    turn = await scene.submit()
    seconds, _ = await scene.redis.time()
    now_ms = int(seconds) * 1000
    await scene.redis.hset(scene.keys.turn(turn), "created", now_ms - 20_000)  # type: ignore[misc, arg-type]
    await scene.redis.zadd(scene.keys.turns_open(), {turn: 1})

    [found] = await scene.store.turns.unclaimed(older_than_ms=2_000)

    assert found.age_ms >= 20_000
    score = await scene.redis.zscore(scene.keys.turns_open(), turn)
    assert score is not None
    assert 9_000 < score + 2_000 - now_ms < 13_000


async def test_a_sweep_takes_no_more_than_its_limit_and_forgets_what_is_gone(scene: Scene) -> None:
    turns = [await scene.submit() for _ in range(5)]
    await scene.redis.zadd(
        scene.keys.turns_open(), {str(turn): score for score, turn in enumerate(turns, start=1)}
    )
    await scene.redis.delete(scene.keys.turn(turns[0]))

    assert len(await scene.store.turns.unclaimed(older_than_ms=1, limit=2)) == 2
    assert (await scene.counts())["open"] == 4


async def test_a_conversation_keeps_the_options_it_was_given_last(scene: Scene) -> None:
    lease, turn = await scene.begin()
    await scene.store.turns.finish(lease, turn, 1, DONE, idle_timeout_s=60)
    for asked, has in ((None, None), ("research", "research"), (None, "research"), ("b", "b")):
        new = scene.new_turn()
        options = ConversationOptions(egress_profile=asked)
        request = new.request.model_copy(update={"options": options})
        await scene.offer(replace(new, request=request))
        claimed = await scene.claim(lease)
        assert claimed.request.options == ConversationOptions(egress_profile=has)
        await scene.store.turns.finish(lease, request.turn, 1, DONE, idle_timeout_s=60)


async def test_an_option_that_is_named_leaves_the_others_as_they_are(scene: Scene) -> None:
    """Also one that only a later version knows, and a list that is empty."""
    key = scene.keys.conversation(C)
    await scene.redis.hset(key, "options", '{"later": "[]", "egress_profile": "\\"a\\""}')  # type: ignore[misc]
    new = scene.new_turn()
    options = ConversationOptions(egress_profile="b")
    await scene.offer(replace(new, request=new.request.model_copy(update={"options": options})))

    kept = json.loads(await scene.redis.hget(key, "options") or "")  # type: ignore[misc]
    assert kept == {"later": "[]", "egress_profile": '"b"'}
    assert (await scene.claim(await scene.acquire())).request.options == options


async def test_a_turns_age_is_told_by_the_clock_of_redis_alone(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = await scene.submit()
    await scene.redis.hincrby(scene.keys.turn(turn), "created", -5000)  # type: ignore[misc]
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    age_ms = await scene.store.turns.age_ms(turn)
    assert age_ms is not None
    assert 5000 <= age_ms < 60_000
    assert await scene.store.turns.age_ms(new_turn_id()) is None


@pytest.mark.parametrize("has_spoken", [False, True])
async def test_a_begun_turn_whose_conversation_is_gone_is_ended_by_the_next_look(
    scene: Scene, has_spoken: bool
) -> None:
    """No claim ever found it: it counted against its tenant for a day, and nobody could end it."""
    lease, turn = await scene.begin()
    if has_spoken:
        await scene.store.log.append(lease, turn, text_events(1, 3))
    await scene.redis.delete(scene.keys.conversation(C))

    async with Listener(scene, scene.keys.replica_channel(REPLICA)) as heard:
        assert await scene.store.turns.unclaimed(older_than_ms=-60_000) == []
        [frame] = split_frames(await heard.next())

    n, end = await end_of(scene, turn)
    assert (n, frame.n) == (4 if has_spoken else 1, n)
    assert (end.state, end.error and end.error.code) == (TurnState.FAILED, ErrorCode.LOG_LOST)
    assert await scene.redis.zcard(scene.keys.tenant_running(TENANT)) == 0
    assert (await scene.counts())["open"] == 0
    record = await scene.store.turns.get(turn)
    assert record is not None
    assert record.sealed_key is None


async def test_a_begun_turn_whose_conversation_is_gone_can_be_cancelled(scene: Scene) -> None:
    _, turn = await scene.begin()
    await scene.redis.delete(scene.keys.conversation(C))
    assert await scene.store.turns.cancel(turn, tenant=TENANT, reason="x") is TurnState.CANCELLED
    assert await end_of(scene, turn) == (1, TurnEnded(state=TurnState.CANCELLED))
