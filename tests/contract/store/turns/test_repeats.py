"""What a worker repeats while Redis is away must not happen twice: an answer may be lost after the
script ran.

A lost answer to `reap` once left a record `stopping` under a conversation that went on working, and
ended its turn at the next hand-over; one to `requeue` failed a turn that waited in its queue.
"""

from __future__ import annotations

import ast
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import worker
from infra.store.access.usage import Spent
from infra.store.conversations.leases import Lease
from infra.store.conversations.transcripts import RawEntry, RawPart
from infra.store.turns.history import TurnBase
from infra.store.turns.records import CalledBy
from infra.store.turns.turns import Claimed
from infra.wire.gateway import TurnMeter
from infra.wire.ids import TurnId
from infra.wire.link import BaseKind
from infra.wire.mcp.logins import SealedLogin
from infra.wire.states import ConversationState, Hibernation
from tests.contract.store.access.test_usage import metered, used
from tests.contract.store.scene import DONE, HOST_A, OTHER_C, TENANT, W1, W2, C, Scene, text_events

Prepare = Callable[[Scene], Awaitable[tuple[Lease, TurnId]]]
Repeat = Callable[[Scene, Lease, TurnId], Awaitable[object]]

BASE = TurnBase(kind=BaseKind.CONTINUE, digest="0" * 16)
METER: TurnMeter = metered(large=used(2, 10))
NAMELESS = RawPart(None, (RawEntry("u-1", b'{"uuid":"u-1"}'), RawEntry("", b"{}")), "d" * 16)
_OF_TIME = {b"claimed", b"started", b"ended", b"last_active", b"idle_at"}


async def _waiting(scene: Scene) -> tuple[Lease, TurnId]:
    turn = await scene.submit()
    return await scene.acquire(), turn


async def _claimed(scene: Scene) -> tuple[Lease, TurnId]:
    lease, turn = await _waiting(scene)
    await scene.claim(lease)
    return lease, turn


async def _starting(scene: Scene) -> tuple[Lease, TurnId]:
    lease, turn = await _waiting(scene)
    assert await _begin_start(scene)
    return lease, turn


async def _begin_start(scene: Scene) -> bool:
    return await scene.store.starts.begin(C, HOST_A, most=1, life_s=60.0)


async def _wanted_stopped(scene: Scene) -> tuple[Lease, TurnId]:
    lease, turn = await _claimed(scene)
    await scene.store.turns.cancel(turn, tenant=TENANT, reason="no more")
    return lease, turn


async def _taken_over(scene: Scene, *, starts: bool) -> tuple[Lease, TurnId]:
    lease, turn = await _claimed(scene)
    if starts:
        await scene.store.turns.start(lease, turn, base=BASE)
        await scene.store.log.append(lease, turn, text_events(1, 3))
    await scene.lapse()
    return await scene.acquire(W2), turn


async def _idle(scene: Scene, *, is_asked_again: bool = False) -> tuple[Lease, TurnId]:
    lease, turn = await scene.begin()
    await scene.store.turns.finish(lease, turn, 1, DONE, idle_timeout_s=0)
    await scene.redis.zadd(scene.keys.idle(), {C: 1})
    return lease, turn


async def _logged_in(scene: Scene) -> tuple[Lease, TurnId]:
    await scene.store.mcp_logins.keep("helper/tickets", SealedLogin(sealed="before"))
    return await scene.begin()


REPEATED: dict[str, tuple[Prepare, Repeat]] = {
    "claim": (_waiting, lambda s, lease, _: s.store.turns.claim(lease)),
    "claim, of one that another began": (
        lambda s: _taken_over(s, starts=True),
        lambda s, lease, _: s.store.turns.claim(lease),
    ),
    "claim, of one that another claimed": (
        lambda s: _taken_over(s, starts=False),
        lambda s, lease, _: s.store.turns.claim(lease),
    ),
    "begin, of a start that counts on its host": (_waiting, lambda s, *_: _begin_start(s)),
    "end, of such a start": (_starting, lambda s, *_: s.store.starts.end(C, HOST_A)),
    "start": (
        _claimed,
        lambda s, lease, turn: s.store.turns.start(lease, turn, base=BASE, is_resending=True),
    ),
    "requeue": (_claimed, lambda s, lease, turn: s.store.turns.requeue(lease, turn)),
    "requeue, not counted": (
        _claimed,
        lambda s, lease, turn: s.store.turns.requeue(lease, turn, is_counted=False),
    ),
    "requeue, of one that somebody wants stopped": (
        _wanted_stopped,
        lambda s, lease, turn: s.store.turns.requeue(lease, turn),
    ),
    "finish": (
        Scene.begin,
        lambda s, lease, turn: s.store.turns.finish(
            lease, turn, 1, DONE, idle_timeout_s=60, meter=METER
        ),
    ),
    "submit, of a turn that an agent calls": (
        Scene.begin,
        lambda s, _, turn: s.offer(
            replace(
                s.new_turn(OTHER_C, turn=TurnId("turn_" + "0" * 32)),
                called_by=CalledBy(turn=turn, at_once_max=1, most=1, granted_tokens=5),
            )
        ),
    ),
    "append": (
        Scene.begin,
        lambda s, lease, turn: s.store.log.append(lease, turn, text_events(1, 3)),
    ),
    "append, of a transcript": (
        Scene.begin,
        lambda s, lease, _: s.store.transcripts.append(lease, "s-1", NAMELESS),
    ),
    "give_up": (Scene.begin, lambda s, lease, _: s.store.transcripts.give_up(lease, "s-1")),
    "book": (Scene.begin, lambda s, lease, turn: s.store.usage.book(lease, turn, METER)),
    "update": (
        _claimed,
        lambda s, lease, _: s.store.conversations.update(lease, ConversationState.STARTING),
    ),
    "reap": (_idle, lambda s, lease, _: s.store.conversations.reap(C, W1)),
    "hibernate": (
        _idle,
        lambda s, lease, _: s.store.conversations.hibernate(lease, Hibernation.MEMORY),
    ),
    "keep_renewed": (
        _logged_in,
        lambda s, *_: s.store.mcp_logins.keep_renewed(
            "helper/tickets", "before", SealedLogin(sealed="after")
        ),
    ),
    "wiped": (
        Scene.begin,
        lambda s, lease, _: s.store.conversations.wiped(C, lease.worker),  # type: ignore[arg-type]
    ),
}
READS = {
    "get",
    "load",
    "epoch",
    "of_host",
    "is_wipe_due",
    "read",
    "bundle",
    "free_tokens",
    "note_lent",
}


@pytest.mark.parametrize("name", REPEATED)
async def test_what_is_repeated_after_a_lost_answer_happens_once(scene: Scene, name: str) -> None:
    prepare, repeat = REPEATED[name]
    lease, turn = await prepare(scene)

    first = await repeat(scene, lease, turn)
    kept = await _kept(scene)
    again = await repeat(scene, lease, turn)

    assert _essence(again) == _essence(first)
    assert await _kept(scene) == kept


async def test_who_has_won_stops_also_when_a_turn_came_between(scene: Scene) -> None:
    """The record says `stopping`: to go on without stopping would break it."""
    await _idle(scene)
    assert await scene.store.conversations.reap(C, W1)
    await scene.submit()
    assert await scene.store.conversations.reap(C, W1)
    assert not await scene.store.conversations.reap(C, W2)


async def test_what_another_gave_back_is_not_ours_to_give(scene: Scene) -> None:
    lease, turn = await _claimed(scene)
    await scene.store.turns.requeue(lease, turn)
    await scene.lapse()
    newer = await scene.acquire(W2)
    assert not await scene.store.turns.requeue(newer, turn)


def test_each_call_that_workers_repeat_is_tried_here() -> None:
    tried = {name.partition(",")[0] for name in REPEATED} | READS
    called = {name.removeprefix("_") for name in _repeated_calls()}
    assert {"claim", "finish", "reap"} < called, "the search finds nothing"
    assert called <= tried


def _repeated_calls() -> Iterator[str]:
    """What is given to `until_store_answers`, by the last part of its name."""
    for path in Path(worker.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "until_store_answers":
                repeated = node.args[0]
                if isinstance(repeated, ast.Lambda) and isinstance(repeated.body, ast.Call):
                    repeated = repeated.body.func
                assert isinstance(repeated, ast.Attribute), ast.dump(repeated)
                yield repeated.attr


def _essence(answer: Any) -> Any:
    """Of a claim, which turn it is: it may be an adoption the first time only."""
    if isinstance(answer, Spent):
        return answer.turn_tokens, answer.tenant_tokens
    return answer.record.turn if isinstance(answer, Claimed) else answer


async def _kept(scene: Scene) -> dict[bytes, object]:
    """Every key, without times."""
    redis: Any = scene.redis
    kept: dict[bytes, object] = {}
    for key in await redis.keys(f"{scene.keys.prefix}:*"):
        match await redis.type(key):
            case b"hash":
                held = await redis.hgetall(key)
                kept[key] = {name: value for name, value in held.items() if name not in _OF_TIME}
            case b"zset":
                kept[key] = sorted(await redis.zrange(key, 0, -1))
            case b"list":
                kept[key] = await redis.lrange(key, 0, -1)
            case b"set":
                kept[key] = await redis.smembers(key)
            case b"stream":
                kept[key] = await redis.xrange(key)
            case _:
                kept[key] = await redis.get(key)
    return kept
