"""What a tenant holds in Redis is counted as it comes and goes, and bounded.

One key once filled Redis for everybody: the request of an ended turn stayed for an hour, so that
sixty streams with prompts of 30 MB whose clients hung up ended the service, and an honest chat that
resends its history grew with the square of its length.
"""

from __future__ import annotations

import json

import pytest
from redis.asyncio import Redis

from infra.store.access.limits import SubmitLimits
from infra.store.conversations.leases import Lease
from infra.store.keys import Keys
from infra.store.turns.history import TurnBase
from infra.store.turns.turns import NewTurn
from infra.wire.errors import ErrorCode, RequestRefused, TenantHoldsTooMuch
from infra.wire.events import TurnStarted, encode_event
from infra.wire.ids import ConversationKey, TurnId
from infra.wire.link import BaseKind
from infra.wire.turns import HistoryMessage, TextBlock
from tests.contract.store.scene import (
    CANCELLED,
    DONE,
    OTHER_C,
    OTHER_TENANT,
    TENANT,
    C,
    Scene,
    text_events,
)
from tests.fakes.raw_parts import raw_part

BASE = TurnBase(kind=BaseKind.CONTINUE, digest="0" * 16)
TURN_BYTES = 6000
"""Of a turn with nothing in it, as the scripts count it."""


async def held(scene: Scene) -> int:
    return int(await scene.redis.hget(scene.keys.tenant_held(TENANT), "total") or 0)  # type: ignore[misc]


def saying(scene: Scene, text: str, c: ConversationKey = C) -> NewTurn:
    new = scene.new_turn(c)
    request = new.request.model_copy(update={"prompt": (TextBlock(text=text),)})
    return NewTurn(request, new.replica, new.sealed_key, new.key_expires_ms)


async def run(scene: Scene, new: NewTurn) -> tuple[Lease, TurnId]:
    """Submitted, claimed and started."""
    turn = (await scene.offer(new)).turn
    lease = await scene.acquire(c=new.request.conversation)
    await scene.claim(lease)
    await scene.store.turns.start(lease, turn, base=BASE)
    return lease, turn


async def test_a_request_is_kept_until_its_turn_ends(scene: Scene) -> None:
    _, turn = await run(scene, saying(scene, "x" * 100_000))
    assert await held(scene) > 100_000 + TURN_BYTES

    await scene.store.turns.finish(await scene.acquire(), turn, 1, DONE, idle_timeout_s=60)

    assert not await scene.redis.exists(scene.keys.turn_request(turn))
    assert TURN_BYTES < await held(scene) < 2 * TURN_BYTES


async def test_the_answers_a_turn_was_sent_with_count_until_it_ends(scene: Scene) -> None:
    turn = (await scene.offer(scene.new_turn())).turn
    lease = await scene.acquire()
    await scene.claim(lease)
    before = await held(scene)
    sent = TurnBase(
        kind=BaseKind.FRESH, before=("1" * 16,) * 50, heads=("x" * 200,) * 50, digest="0" * 16
    )
    for _ in range(2):
        await scene.store.turns.start(lease, turn, base=sent)
    assert before + 10_000 < await held(scene) < before + 12_000

    await scene.store.turns.finish(lease, turn, 1, DONE, idle_timeout_s=60)
    assert await held(scene) < before + 1_000
    assert not await scene.redis.exists(scene.keys.turn_heads(turn))


async def held_of(scene: Scene, record: str) -> int:
    return int(await scene.redis.hget(scene.keys.tenant_held(TENANT), record) or 0)  # type: ignore[misc]


async def remember(scene: Scene, base: TurnBase) -> tuple[TurnId, int]:
    """A turn that the agent took in and told the end of; what it counted while it ran."""
    turn = (await scene.offer(scene.new_turn())).turn
    lease = await scene.acquire()
    await scene.claim(lease)
    await scene.store.turns.start(lease, turn, base=base)
    counted = await held_of(scene, turn)
    started = encode_event(TurnStarted(sdk_session="s-1", model="m"))
    await scene.store.log.append(lease, turn, [(1, started)])
    await scene.store.turns.finish(lease, turn, 2, DONE, idle_timeout_s=60)
    return turn, counted


@pytest.mark.parametrize("keep", [0, 2])
async def test_prompts_that_leave_the_memory_count_no_more(scene: Scene, keep: int) -> None:
    """A client that edits its chat has it told anew: each time all its prompts were counted again,
    until its tenant was refused for bytes that nobody held."""
    sent = TurnBase(
        kind=BaseKind.FRESH, before=("1" * 16,) * 20, heads=("x" * 500,) * 20, digest="0" * 16
    )
    await remember(scene, sent)
    once = await held_of(scene, C)
    assert once > 20 * 350
    edited = sent.model_copy(update={"keep": keep, "before": sent.before[keep:]})
    if keep:
        edited = edited.model_copy(update={"kind": BaseKind.REWIND, "heads": sent.heads[keep:]})
    for known in (None, 21, 21):
        await remember(scene, edited.model_copy(update={"known": known}))
        assert await held_of(scene, C) == once
    assert await scene.redis.llen(scene.keys.accepted(C)) == 21  # type: ignore[misc]

    await remember(scene, TurnBase(kind=BaseKind.FRESH, digest="0" * 16))
    assert await held_of(scene, C) < once - 20 * 350


async def test_what_a_turn_stands_on_counts_until_it_ends(scene: Scene) -> None:
    _, small = await remember(scene, TurnBase(kind=BaseKind.FRESH, digest="0" * 16))
    large = TurnBase(kind=BaseKind.FRESH, before=("1" * 16,) * 4_000, digest="0" * 16)
    turn, counted = await remember(scene, large)
    assert small + 4_000 * 16 < counted < small + 4_000 * 24
    assert await held_of(scene, turn) < 2 * TURN_BYTES
    assert not await scene.redis.hexists(scene.keys.turn(turn), "base")  # type: ignore[misc]


@pytest.mark.parametrize("way", ["adrift", "no request", "forced delete"])
async def test_what_a_turn_stands_on_goes_also_when_nobody_finishes_it(
    scene: Scene, way: str
) -> None:
    """It counted against its tenant until the record expired."""
    turn = (await scene.offer(scene.new_turn())).turn
    lease = await scene.acquire()
    await scene.claim(lease)
    before = await held(scene)
    base = TurnBase(kind=BaseKind.FRESH, before=("1" * 16,) * 4_000, digest="0" * 16)
    await scene.store.turns.start(lease, turn, base=base)
    assert await held(scene) > before + 4_000 * 16
    match way:
        case "adrift":
            await scene.redis.delete(scene.keys.conversation(C))
            await scene.store.turns.cancel(turn, tenant=TENANT, reason="the client hung up")
        case "no request":
            await scene.redis.delete(scene.keys.turn_request(turn))
            assert await scene.store.turns.claim(lease) is None
        case _:
            await scene.store.conversations.delete(C, tenant=TENANT, reason="gone", is_forced=True)
    assert (await scene.turn_state(turn)).is_terminal
    assert await held(scene) < before + 1_000
    assert not await scene.redis.hexists(scene.keys.turn(turn), "base")  # type: ignore[misc]


async def test_a_message_stopped_while_the_first_turn_runs_counts_on(scene: Scene) -> None:
    """The list was empty when it was decided on what the turn is to stand."""
    turn = (await scene.offer(scene.new_turn())).turn
    lease = await scene.acquire()
    await scene.claim(lease)
    base = TurnBase(kind=BaseKind.FRESH, known=0, digest="0" * 16)
    await scene.store.turns.start(lease, turn, base=base)
    stopped = await scene.submit(is_thin=True)
    await scene.store.turns.cancel(stopped, tenant=TENANT, reason="stop")
    before = await held_of(scene, C)
    started = encode_event(TurnStarted(sdk_session="s-1", model="m"))
    await scene.store.log.append(lease, turn, [(1, started)])
    await scene.store.turns.finish(lease, turn, 2, DONE, idle_timeout_s=60)
    assert await scene.redis.llen(scene.keys.accepted(C)) == 2  # type: ignore[misc]
    assert await held_of(scene, C) == before + 300


async def test_a_message_stopped_while_a_later_turn_runs_stands_behind_it(scene: Scene) -> None:
    """The list goes on from all that was known, and is longer than that."""
    first, _ = await remember(scene, TurnBase(kind=BaseKind.FRESH, digest="0" * 16))
    turn = (await scene.offer(scene.new_turn())).turn
    lease = await scene.acquire()
    await scene.claim(lease)
    base = TurnBase(kind=BaseKind.CONTINUE, keep=1, known=1, digest="1" * 16)
    await scene.store.turns.start(lease, turn, base=base)
    stopped = [await scene.submit(is_thin=True) for _ in range(2)]
    for waiting in stopped:
        await scene.store.turns.cancel(waiting, tenant=TENANT, reason="stop")
    started = encode_event(TurnStarted(sdk_session="s-1", model="m"))
    await scene.store.log.append(lease, turn, [(1, started)])
    await scene.store.turns.finish(lease, turn, 2, DONE, idle_timeout_s=60)
    entries = await scene.redis.lrange(scene.keys.accepted(C), 0, -1)  # type: ignore[misc]
    assert [json.loads(entry)["turn"] for entry in entries] == [first, turn, *stopped]


async def test_a_log_counts_in_steps_until_its_turn_ends(scene: Scene) -> None:
    lease, turn = await run(scene, saying(scene, "Hello"))
    before, last = await held_of(scene, turn), 0
    counted = []
    for _ in range(8):
        last = await scene.store.log.append(lease, turn, text_events(last + 1, 20))
        counted.append(await held_of(scene, turn) - before)
    assert counted[0] == 0, "a step is counted from the beginning"
    assert len(set(counted)) < len(counted) - 2
    said = int(await scene.redis.hget(scene.keys.turn(turn), "said") or 0)  # type: ignore[misc]
    assert 0 <= 2048 + counted[-1] - (said + 16 * last) < 2048

    await scene.store.turns.finish(lease, turn, last + 1, DONE, idle_timeout_s=60)
    kept = await held_of(scene, turn) - TURN_BYTES - said - 16 * last
    assert 0 < kept < 300, "the end event"


async def test_a_message_that_waited_unheard_counts_until_it_is_heard(scene: Scene) -> None:
    first = TurnBase(kind=BaseKind.FRESH, digest="0" * 16)
    await remember(scene, first)
    once = await held_of(scene, C)
    stopped = await scene.submit(is_thin=True)
    await scene.store.turns.cancel(stopped, tenant=TENANT, reason="stop")
    assert await held_of(scene, C) > once + 300
    heard = TurnBase(kind=BaseKind.CONTINUE, keep=1, known=2, before=("1" * 16,), digest="2" * 16)
    await remember(scene, heard)
    assert await held_of(scene, C) == once + 2 * 300


@pytest.mark.parametrize("way", ["cancel", "expire", "stop", "forced delete"])
async def test_whatever_ends_a_turn_its_request_goes(scene: Scene, way: str) -> None:
    turn = (await scene.offer(saying(scene, "x" * 100_000))).turn
    store = scene.store
    match way:
        case "cancel":
            await store.turns.cancel(turn, tenant=TENANT, reason="the client hung up")
        case "expire":
            assert await store.turns.expire(turn)
        case "stop":
            await store.conversations.stop(C, tenant=TENANT, reason="stop")
        case _:
            await store.conversations.delete(C, tenant=TENANT, reason="gone", is_forced=True)
    assert not await scene.redis.exists(scene.keys.turn_request(turn))
    assert await held(scene) < 2 * TURN_BYTES


async def test_what_is_logged_and_remembered_counts_and_a_delete_gives_it_back(
    scene: Scene,
) -> None:
    lease, turn = await run(scene, saying(scene, "Hello"))
    before = await held(scene)
    await scene.store.log.append(lease, turn, text_events(1, 100))
    logged = await held(scene) - before
    size = sum(len(payload) for _, payload in text_events(1, 100))
    assert size < logged < 2 * size
    await scene.store.log.append(lease, turn, text_events(1, 100))
    assert await held(scene) == before + logged, "what is there already is not counted again"

    entries = tuple({"uuid": f"u-{i}", "text": "x" * 1000} for i in range(10))
    for _ in range(2):
        await scene.store.transcripts.append(lease, "s-1", raw_part(entries=entries))
    kept = await held(scene) - before - logged
    assert 10_000 < kept < 14_000

    await scene.store.turns.finish(lease, turn, 101, DONE, idle_timeout_s=60)
    await scene.store.conversations.delete(C, tenant=TENANT, reason="gone")
    assert not await scene.redis.exists(scene.keys.tenant_held(TENANT))
    assert not await scene.redis.exists(scene.keys.tenant_held_until(TENANT))


async def test_a_session_that_takes_anothers_place_gives_its_bytes_back(scene: Scene) -> None:
    lease, _ = await run(scene, saying(scene, "Hello"))
    before = await held(scene)
    for session in ("s-1", "s-2", "s-3"):
        part = raw_part(entries=({"uuid": f"u-{session}", "text": "x" * 10_000},))
        await scene.store.transcripts.append(lease, session, part)
    assert 10_000 < await held(scene) - before < 11_000


async def test_what_expires_counts_no_more(scene: Scene) -> None:
    turn = (await scene.offer(saying(scene, "x" * 100_000))).turn
    limits = SubmitLimits(turns_waiting_max=8, tenant_bytes_max=120_000)
    with pytest.raises(RequestRefused):
        await scene.offer(saying(scene, "x" * 20_000), limits=limits)

    await scene.redis.delete(scene.keys.turn(turn), scene.keys.turn_request(turn))
    await scene.redis.zadd(scene.keys.tenant_held_until(TENANT), {turn: 1})

    await scene.offer(saying(scene, "x" * 20_000), limits=limits)
    assert await held(scene) < 40_000


async def test_a_tenant_at_its_bound_is_refused_and_nobody_else(scene: Scene) -> None:
    limits = SubmitLimits(turns_waiting_max=8, tenant_bytes_max=150_000)
    await scene.offer(saying(scene, "x" * 100_000), limits=limits)

    with pytest.raises(RequestRefused, match="0 MB already") as refused:
        await scene.offer(saying(scene, "x" * 100_000, OTHER_C), limits=limits)

    assert refused.value.code is ErrorCode.TENANT_LIMIT
    assert refused.value.retry_after_s
    assert await scene.store.conversations.get(OTHER_C) is None
    await scene.offer(saying(scene, "Hi", OTHER_C), limits=limits)
    others = scene.new_turn(ConversationKey("e" * 24), tenant=OTHER_TENANT)
    await scene.offer(others, limits=limits)


async def test_a_repeat_is_not_refused_at_the_bound(scene: Scene) -> None:
    limits = SubmitLimits(turns_waiting_max=8, tenant_bytes_max=TURN_BYTES + 3000)
    first = await scene.offer(scene.new_turn(idempotency="k"), limits=limits)
    again = await scene.offer(scene.new_turn(idempotency="k"), limits=limits)
    assert (again.created, again.turn) == (False, first.turn)


async def test_a_running_turn_is_told_when_its_tenant_may_log_no_more(
    fake: Redis, keys: Keys
) -> None:
    scene = Scene(fake, keys, tenant_bytes_max=20_000)
    lease, turn = await run(scene, saying(scene, "Hello"))
    last = await scene.store.log.append(lease, turn, text_events(1, 200))
    with pytest.raises(TenantHoldsTooMuch) as full:
        await scene.store.log.append(lease, turn, text_events(last + 1, 300))
    assert full.value.newest == last
    last = await scene.store.log.append(lease, turn, text_events(last + 1, 50))
    # A quarter above the bound of new turns.
    assert 17_500 < await held(scene) < 25_000
    end = CANCELLED
    await scene.store.turns.finish(lease, turn, last + 1, end, idle_timeout_s=60)


async def test_a_transcript_that_its_tenant_has_no_room_for_is_not_kept(
    fake: Redis, keys: Keys
) -> None:
    scene = Scene(fake, keys, tenant_bytes_max=50_000)
    lease, _ = await run(scene, saying(scene, "Hello"))
    before = await held(scene)
    kept = [
        await scene.store.transcripts.append(
            lease, "s-1", raw_part(entries=({"uuid": f"u-{i}", "text": "x" * 10_000},))
        )
        for i in range(8)
    ]
    assert kept == [True] * 5 + [False] * 3
    assert await held(scene) == before
    assert await scene.store.transcripts.load(C, "s-1") is None


@pytest.mark.redis
async def test_a_chat_that_resends_its_history_takes_no_more_than_what_was_said(
    real_scene: Scene,
) -> None:
    """Memory of a real server: twice as many turns take twice as much, not four times."""
    taken, history = [], list[HistoryMessage]()
    for n in range(1, 41):
        new = saying(real_scene, "y" * 4000)
        request = new.request.model_copy(update={"history": tuple(history)})
        new = NewTurn(request, new.replica, new.sealed_key, new.key_expires_ms)
        lease, turn = await run(real_scene, new)
        await real_scene.store.log.append(lease, turn, text_events(1, 50))
        await real_scene.store.turns.finish(lease, turn, 51, DONE, idle_timeout_s=60)
        for role in ("user", "assistant"):
            text = TextBlock(text="z" * 4000)
            history.append(HistoryMessage(role=role, content=(text,)))
        if n in (20, 40):
            taken.append(await _memory(real_scene))
    assert taken[1] < 2.2 * taken[0]
    assert taken[1] < 40 * 10_000
    assert taken[1] < 1.5 * await held(real_scene), "and it is counted as about that"
    assert await held(real_scene) < 1.5 * taken[1]


async def _memory(scene: Scene) -> int:
    total = 0
    async for name in scene.redis.scan_iter(f"{scene.keys.prefix}:*", count=1000):
        total += int(await scene.redis.memory_usage(name, samples=0) or 0)
    return total
