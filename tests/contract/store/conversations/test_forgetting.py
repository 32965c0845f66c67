"""Conversations listed, stopped, deleted and forgotten: everywhere, and never a foreign one."""

from __future__ import annotations

import asyncio

import pytest

from infra.store.conversations.conversations import ConversationStore
from infra.store.turns.history import TurnBase
from infra.wire.control import StopSession
from infra.wire.errors import ConversationBusy, ConversationNotFound, LeaseLost
from infra.wire.events import TurnEnded, decode_event
from infra.wire.ids import ConversationKey
from infra.wire.link import BaseKind
from infra.wire.states import ConversationState, TurnState
from tests.contract.store.listening import Listener
from tests.contract.store.scene import (
    DONE,
    HOST_A,
    OTHER_C,
    OTHER_TENANT,
    TENANT,
    W1,
    C,
    Scene,
)
from tests.fakes.raw_parts import raw_part

REASON = "deleted by its owner"


async def end(scene: Scene, c: ConversationKey = C) -> None:
    """A conversation that has had one turn and rests."""
    lease, turn = await scene.begin(W1, c)
    await scene.store.turns.finish(lease, turn, 1, DONE, idle_timeout_s=600)


async def names(scene: Scene) -> list[str]:
    """Every key of the deployment."""
    return sorted([key.decode() async for key in scene.redis.scan_iter(f"{scene.keys.prefix}:*")])


async def test_a_tenant_sees_its_own_conversations_the_last_used_first(scene: Scene) -> None:
    await scene.submit(C)
    await scene.redis.zadd(scene.keys.tenant_conversations(TENANT), {C: 1_900_000_000_000})
    await scene.submit(OTHER_C)
    foreign = scene.new_turn(ConversationKey("e" * 24), tenant=OTHER_TENANT)
    await scene.offer(foreign)

    page = await scene.store.conversations.list(TENANT)

    assert [found.conversation for found in page.conversations] == [C, OTHER_C]
    assert page.cursor is None


async def test_pages_of_a_list_leave_nothing_out_where_times_are_equal(scene: Scene) -> None:
    keys = [ConversationKey(f"{i:024x}") for i in range(7)]
    for c in keys:
        await scene.submit(c)
    index = scene.keys.tenant_conversations(TENANT)
    await scene.redis.zadd(index, dict.fromkeys(keys, 1900000000000))

    seen: list[ConversationKey] = []
    cursor = None
    while True:
        page = await scene.store.conversations.list(TENANT, cursor=cursor, limit=2)
        seen += [found.conversation for found in page.conversations]
        cursor = page.cursor
        if cursor is None:
            break

    assert sorted(seen) == keys
    assert len(seen) == len(keys)


async def test_a_forgotten_conversation_leaves_the_list(scene: Scene) -> None:
    for c in (C, OTHER_C):
        await scene.submit(c)
    await scene.redis.delete(scene.keys.conversation(OTHER_C))

    page = await scene.store.conversations.list(TENANT, limit=1)

    assert [found.conversation for found in page.conversations] == [C]
    assert await scene.redis.zcard(scene.keys.tenant_conversations(TENANT)) == 1


@pytest.mark.parametrize("cursor", ["x", "1", "-", "1-", "x-y"])
async def test_a_cursor_that_is_none_is_refused(scene: Scene, cursor: str) -> None:
    with pytest.raises(ValueError, match="cursor"):
        await scene.store.conversations.list(TENANT, cursor=cursor)


async def test_an_operator_sees_every_conversation_once(scene: Scene) -> None:
    await end(scene)
    await scene.offer(scene.new_turn(OTHER_C, tenant=OTHER_TENANT))

    found = [record async for record in scene.store.conversations.scan()]

    assert sorted(record.conversation for record in found) == [C, OTHER_C]


async def test_a_conversation_names_its_newest_turns(scene: Scene) -> None:
    turns = [await scene.submit() for _ in range(3)]

    assert list(await scene.store.conversations.turns(C)) == turns


async def test_stopping_an_idle_conversation_makes_it_due_and_tells_its_owner(
    scene: Scene,
) -> None:
    await end(scene)
    async with Listener(scene, scene.keys.control_channel(W1)) as heard:
        stopping = await scene.store.conversations.stop(C, tenant=TENANT, reason=REASON)
        assert await heard.next() == StopSession(conversation=C).encode()

    assert (stopping.state, stopping.turn, stopping.owner) == (ConversationState.WARM, None, W1)
    assert list(await scene.store.conversations.due()) == [(C, W1, HOST_A)]


async def test_stopping_a_busy_conversation_cancels_what_runs_and_what_waits(scene: Scene) -> None:
    lease, running = await scene.begin()
    waiting = await scene.submit()

    stopping = await scene.store.conversations.stop(C, tenant=None, reason=REASON)

    assert stopping.turn == running
    record = await scene.store.turns.get(running)
    assert record is not None
    assert record.cancel == REASON
    assert await scene.turn_state(waiting) is TurnState.CANCELLED
    assert not await scene.store.turns.finish(lease, running, 1, DONE, idle_timeout_s=60)


@pytest.mark.parametrize("what", ["stop", "delete"])
async def test_a_foreign_conversation_is_as_unknown_as_none(scene: Scene, what: str) -> None:
    await end(scene)
    before = await names(scene)

    for c, tenant in ((C, OTHER_TENANT), (OTHER_C, TENANT), (OTHER_C, None)):
        with pytest.raises(ConversationNotFound):
            await getattr(scene.store.conversations, what)(c, tenant=tenant, reason=REASON)

    assert await names(scene) == before


async def test_a_deleted_conversation_leaves_nothing_but_the_wipe(scene: Scene) -> None:
    turn = await scene.offer(scene.new_turn(idempotency="digest"))
    lease = await scene.acquire()
    await scene.claim(lease)
    await scene.warm_up(lease)
    base = TurnBase(kind=BaseKind.CONTINUE, digest="0" * 16)
    await scene.store.turns.start(lease, turn.turn, base=base, is_resending=True)
    part = raw_part(entries=({"uuid": "u-1", "type": "user"},))
    await scene.store.transcripts.append(lease, "session-1", part)
    await scene.store.turns.finish(lease, turn.turn, 1, DONE, idle_timeout_s=600)

    deleted = await scene.store.conversations.delete(C, tenant=TENANT, reason=REASON)

    assert (deleted.host, deleted.owner, deleted.container) == (HOST_A, W1, "box-1")
    assert await names(scene) == [scene.keys.host_wipes(HOST_A)]
    assert await scene.store.conversations.wipes(HOST_A) == {C}
    assert await scene.store.conversations.is_wipe_due(C, HOST_A)
    with pytest.raises(LeaseLost):
        await scene.store.transcripts.append(lease, "session-1", part)
    await scene.store.conversations.wiped(C, HOST_A)
    assert await names(scene) == []


async def test_the_owner_of_a_deleted_conversation_is_told(scene: Scene) -> None:
    await end(scene)
    async with Listener(scene, scene.keys.control_channel(W1)) as heard:
        await scene.store.conversations.delete(C, tenant=TENANT, reason=REASON)
        assert await heard.next() == StopSession(conversation=C, is_deleted=True).encode()


async def test_a_conversation_with_an_unfinished_turn_is_not_deleted(scene: Scene) -> None:
    waiting = await scene.submit()
    with pytest.raises(ConversationBusy) as busy:
        await scene.store.conversations.delete(C, tenant=TENANT, reason=REASON)
    assert busy.value.turn == waiting

    lease = await scene.acquire()
    await scene.claim(lease)
    with pytest.raises(ConversationBusy):
        await scene.store.conversations.delete(C, tenant=TENANT, reason=REASON)
    assert await scene.conversation_state() is ConversationState.COLD


async def test_a_forced_delete_ends_turns_visibly(scene: Scene) -> None:
    lease, running = await scene.begin()
    waiting = await scene.submit()

    await scene.store.conversations.delete(C, tenant=TENANT, reason=REASON, is_forced=True)

    for turn in (running, waiting):
        page = await scene.store.log.read(turn, after=0)
        assert page.state is TurnState.CANCELLED
        assert isinstance(decode_event(page.events[-1][1]), TurnEnded)
        assert 0 < await scene.redis.pttl(scene.keys.turn(turn)) <= 60_000
    assert (await scene.counts())["open"] == 0
    with pytest.raises(LeaseLost):
        await scene.store.turns.finish(lease, running, 2, DONE, idle_timeout_s=60)
    assert lease.conversation in (await scene.store.leases.renew([lease])).lost


async def test_a_deleted_name_can_be_used_again_at_once_by_any_worker(scene: Scene) -> None:
    await end(scene)
    await scene.store.conversations.delete(C, tenant=TENANT, reason=REASON)

    turn = await scene.submit()
    claimed = await scene.claim(await scene.acquire())

    assert claimed.record.turn == turn
    assert (claimed.accepted, claimed.sdk_session, claimed.is_resending) == ((), None, False)


async def test_who_cleans_up_after_a_deleted_conversation_leaves_no_record(scene: Scene) -> None:
    await end(scene)
    await scene.store.conversations.delete(C, tenant=TENANT, reason=REASON)
    lease = await scene.acquire()

    await scene.store.leases.release(lease, ConversationState.COLD)

    assert await scene.store.conversations.get(C) is None


async def test_of_many_deletes_and_a_submit_the_turn_is_never_lost(scene: Scene) -> None:
    await end(scene)

    turn, *outcomes = await asyncio.gather(
        scene.submit(),
        *(scene.store.conversations.delete(C, tenant=TENANT, reason=REASON) for _ in range(5)),
        return_exceptions=True,
    )

    assert isinstance(turn, str)
    busy_or_gone = (ConversationBusy, ConversationNotFound)
    assert sum(not isinstance(outcome, busy_or_gone) for outcome in outcomes) <= 1
    assert await scene.turn_state(turn) is TurnState.QUEUED  # type: ignore[arg-type]


async def test_everything_of_a_conversation_lives_as_long_as_its_record(scene: Scene) -> None:
    lease, turn = await scene.begin()
    part = raw_part(entries=({"uuid": "u-1"},))
    await scene.store.transcripts.append(lease, "session-1", part)
    belongings = [key for key in await names(scene) if f":{C}:" in key]
    for key in belongings:
        await scene.redis.pexpire(key, 1000)
    # Its retention and the eighth beyond it are used up.
    await scene.redis.hset(scene.keys.conversation(C), "kept_until", "1")  # type: ignore[misc]

    await scene.store.turns.finish(lease, turn, 1, DONE, idle_timeout_s=60)

    for key in (*belongings, scene.keys.tenant_conversations(TENANT)):
        assert 4_040_000 < await scene.redis.pttl(key) <= 4_050_000, key


async def test_a_conversation_is_always_kept_for_its_retention_at_the_least(scene: Scene) -> None:
    """And said to be kept only when that is no longer so."""
    lease, turn = await scene.begin()
    conversation, renewed = scene.keys.conversation(C), []
    for left_ms in (3_700_000, 3_500_000):
        await scene.redis.pexpire(conversation, left_ms)
        now_s, _ = await scene.redis.time()
        await scene.redis.hset(conversation, "kept_until", str(now_s * 1000 + left_ms))  # type: ignore[misc]
        await scene.store.turns.finish(lease, turn, 1, DONE, idle_timeout_s=60)
        renewed.append(await scene.redis.pttl(conversation) > 3_800_000)
        turn = await scene.submit()
        await scene.claim(lease)
    assert renewed == [False, True]


@pytest.mark.parametrize("at_once", [1000, 30])
async def test_a_delete_forgets_every_turn_that_is_on_record(
    real_scene: Scene, at_once: int
) -> None:
    """Of a long chat all but the newest 200 turns stayed readable for an hour."""
    scene, last = real_scene, None
    for _ in range(230):
        last = await scene.submit()
        await scene.store.turns.cancel(last, tenant=TENANT, reason="x")
    assert last is not None
    assert list(await scene.store.conversations.turns(C))[-1] == last
    assert len(await scene.store.conversations.turns(C)) == 200

    store = ConversationStore(scene.redis, scene.keys, forgotten_at_once=at_once)
    await store.delete(C, tenant=TENANT, reason=REASON)

    assert await names(scene) == []


async def test_the_list_of_turns_forgets_those_that_are_not_on_record(scene: Scene) -> None:
    listed = scene.keys.conversation_turns(C)
    await scene.redis.rpush(listed, *(f"old-{i}" for i in range(230)))  # type: ignore[misc]
    for _ in range(3):
        await scene.submit()
    assert await scene.redis.llen(listed) == 200  # type: ignore[misc]


async def test_a_forced_delete_ends_the_running_turn_also_behind_many_others(
    scene: Scene,
) -> None:
    _, running = await scene.begin()
    for _ in range(12):
        turn = await scene.submit()
        await scene.store.turns.cancel(turn, tenant=TENANT, reason="x")
    store = ConversationStore(scene.redis, scene.keys, forgotten_at_once=5)
    await store.delete(C, tenant=TENANT, reason=REASON, is_forced=True)
    record = await scene.store.turns.get(running)
    assert record is not None
    assert record.state is TurnState.CANCELLED
    assert await scene.store.conversations.get(C) is None
