"""Conversations: their record, the idle deadlines, and how they are stopped and forgotten."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from redis.asyncio import Redis

from infra.store.keys import Keys
from infra.store.leases import Lease
from infra.store.server.connection import translate
from infra.store.server.replies import fields, optional, text, word
from infra.store.server.scripts import Scripts
from infra.store.turn_log import EVENTS_MAX
from infra.wire.control import StopSession
from infra.wire.errors import ConversationBusy, ConversationNotFound, IllegalTransition, LeaseLost
from infra.wire.events import TurnEnded, encode_event
from infra.wire.ids import ConversationKey, Fence, HostId, TenantId, TurnId, WorkerId
from infra.wire.states import ConversationState, TurnState
from infra.wire.turns import Lane

ENDED_TTL_S = 3600.0
"""How long an ended turn can be come back to, unless the settings say otherwise."""

_CANCELLED = encode_event(TurnEnded(state=TurnState.CANCELLED))
_LAST_WORDS_S = 60.0
_LISTED_AT_ONCE = 50
FORGOTTEN_AT_ONCE = 1000
"""Turns: some milliseconds of Redis."""
LISTED_TURNS_MAX = 200
"""The newest turns that are shown of a conversation."""

UNKNOWN_TTL_S = 86400.0
"""How long a conversation stays that only its container still knew; its next turn makes it more."""

REAP_AGAIN_S = 60.0
"""A conversation whose reaper died while stopping it is due again after this long."""


@dataclass(frozen=True)
class ConversationRecord:
    """A conversation's hash, typed. Times in Unix ms."""

    conversation: ConversationKey
    tenant: TenantId
    label: str
    state: ConversationState
    owner: WorkerId | None
    """Who last took the lease and has not given it up; whether it lives, the lease says."""
    host: HostId | None
    """Where its container is, or will be."""
    fence: Fence
    container: str | None
    sdk_session: str | None
    turn: TurnId | None
    """The unfinished turn, if any."""
    turns: int
    created_ms: int
    last_active_ms: int
    idle_at_ms: int | None
    lane: Lane = Lane.AGENT
    """Side: one request's, gone minutes after its turn; no list of conversations shows it."""
    is_resending: bool = False
    """Its client has sent history before."""
    transcript_full: str | None = None
    """An SDK session that grew too large to keep."""


@dataclass(frozen=True)
class ConversationPage:
    """`cursor` leads to the next page; None: this is the last."""

    conversations: Sequence[ConversationRecord]
    cursor: str | None


@dataclass(frozen=True)
class Stopping:
    """What a stop found. `turn` is being cancelled; the container goes when it has ended."""

    state: ConversationState
    turn: TurnId | None
    owner: WorkerId | None


@dataclass(frozen=True)
class Deleted:
    """What is left to clean after a delete, by `host`: its workers are told, now or later."""

    host: HostId | None
    owner: WorkerId | None
    container: str | None


class ConversationStore:
    def __init__(
        self,
        redis: Redis,
        keys: Keys,
        *,
        ended_ttl_s: float = ENDED_TTL_S,
        forgotten_at_once: int = FORGOTTEN_AT_ONCE,
    ) -> None:
        """`forgotten_at_once` is how many turns one script of a delete forgets."""
        self._redis = redis
        self._keys = keys
        self._scripts = Scripts(redis, keys)
        self._ended_ttl_s = ended_ttl_s
        self._forgotten_at_once = forgotten_at_once

    async def get(self, c: ConversationKey) -> ConversationRecord | None:
        """What is on record; None for a conversation nobody knows (any more)."""
        with translate():
            held = fields(await self._redis.hgetall(self._keys.conversation(c)))  # type: ignore[misc]
        return _known(c, held)

    async def update(
        self,
        lease: Lease,
        state: ConversationState,
        *,
        container: str | None = None,
        sdk_session: str | None = None,
    ) -> None:
        """Move to `state` under the lease; fields given are set.

        A state it has already is no error. Raises `LeaseLost`, `IllegalTransition`.
        """
        c = lease.conversation
        answer = await self._scripts.run(
            "update",
            [self._keys.conversation(c), self._keys.idle()],
            [
                c,
                lease.worker,
                str(lease.fence),
                state.value,
                container or "",
                sdk_session or "",
            ],
        )
        if answer[0] == b"lost":
            raise LeaseLost(c, lease.fence)
        if answer[0] == b"illegal":
            raise IllegalTransition(f"conversation {c}", text(answer[1]), state.value)

    async def due(
        self,
        worker: WorkerId | None = None,
        host: HostId | None = None,
        *,
        owned: Iterable[ConversationKey] = (),
        limit: int = 50,
    ) -> Sequence[tuple[ConversationKey, WorkerId | None, HostId | None]]:
        """Conversations whose idle deadline has passed, with their living owner and host.

        Of a worker: only those that are its to see to, as it owns them, or nobody does and their
        container was on its `host`, or on one where no worker lives. All of `owned` are looked at,
        which the worker knows to be its own, and come first. One call looks at a part of the others
        only when very many are due, and brings `limit` of them.
        """
        answer = await self._scripts.run(
            "due", [self._keys.idle()], [limit, worker or "", host or "", *owned]
        )
        return [
            (ConversationKey(text(c)), _as(WorkerId, owner), _as(HostId, host))
            for c, owner, host in answer
        ]

    async def reap(self, c: ConversationKey, worker: WorkerId) -> bool:
        """Win the right to stop an idle conversation: warm -> stopping.

        Who won ends it with `LeaseStore.release(..., COLD)`; if it dies before, the conversation is
        due again after `REAP_AGAIN_S`.

        False when another won, a turn is waiting or running, the deadline moved, or its living
        owner is another worker.
        """
        answer = await self._scripts.run(
            "reap",
            [self._keys.conversation(c), self._keys.todo(c), self._keys.idle()],
            [c, worker, round(REAP_AGAIN_S * 1000)],
        )
        return bool(answer[0])

    async def list(
        self, tenant: TenantId, *, cursor: str | None = None, limit: int = _LISTED_AT_ONCE
    ) -> ConversationPage:
        """A tenant's conversations, the last used first. One used meanwhile may be missed.

        Raises `ValueError` for a cursor that is none.
        """
        before, _, last = (cursor or "").partition("-")
        if cursor and not (before.isdecimal() and last):
            raise ValueError("not a cursor")
        answer = await self._scripts.run(
            "list", [self._keys.tenant_conversations(tenant)], [limit, before or "+inf", last]
        )
        found = [
            record
            for c, _, held in answer
            if (record := _known(ConversationKey(text(c)), fields(held)))
        ]
        is_last = len(answer) < limit
        end = None if is_last else f"{text(answer[-1][1])}-{text(answer[-1][0])}"
        return ConversationPage(found, end)

    async def scan(self) -> AsyncIterator[ConversationRecord]:
        """Every conversation of every tenant, in no order: for operators."""
        pattern = self._keys.conversation(ConversationKey("*"))
        length = len(pattern) - 1 + _KEY_DIGITS
        cursor = 0
        while True:
            with translate():
                cursor, names = await self._redis.scan(cursor, match=pattern, count=500)
            for name in map(text, names):
                # What belongs to a conversation has a longer name.
                found = await self.get(_key_in(name)) if len(name) == length else None
                if found is not None and found.lane is Lane.AGENT:
                    yield found
            if cursor == 0:
                return

    async def turns(self, c: ConversationKey) -> Sequence[TurnId]:
        """Its newest turns, the last one last; their records may be gone."""
        with translate():
            found = await self._redis.lrange(  # type: ignore[misc]
                self._keys.conversation_turns(c), -LISTED_TURNS_MAX, -1
            )
        return [TurnId(text(turn)) for turn in found]

    async def stop(self, c: ConversationKey, *, tenant: TenantId | None, reason: str) -> Stopping:
        """Cancel its turns and have its container stopped; the conversation stays.

        `tenant` None: an operator. Raises `ConversationNotFound` (also for another tenant's).
        """
        answer = await self._scripts.run(
            "stop",
            [self._keys.conversation(c), self._keys.idle()],
            [
                c,
                tenant or "",
                reason,
                _CANCELLED,
                StopSession(conversation=c).encode(),
                EVENTS_MAX,
                round(self._ended_ttl_s * 1000),
            ],
        )
        if answer[0] == b"unknown":
            raise ConversationNotFound(c)
        _, state, turn, owner = answer
        return Stopping(
            state=ConversationState(text(state)), turn=_as(TurnId, turn), owner=_as(WorkerId, owner)
        )

    async def delete(
        self,
        c: ConversationKey,
        *,
        tenant: TenantId | None,
        reason: str,
        is_forced: bool = False,
    ) -> Deleted:
        """Forget it everywhere: record, memory, turns and their logs, container and files.

        Redis has forgotten when this returns; its host's workers remove the rest within seconds, or
        when one is there again. Raises `ConversationBusy` while a turn runs or waits, unless
        forced: then turns end as cancelled, the running one at what is logged. `stop` first, and
        the running one ends properly. Raises `ConversationNotFound` (also for another tenant's;
        `tenant` None: an operator).
        """
        answer = await self._delete(c, tenant, reason, is_forced=is_forced)
        while answer[0] == b"more":
            answer = await self._delete(c, tenant, reason, is_forced=is_forced)
        if answer[0] == b"unknown":
            raise ConversationNotFound(c)
        if answer[0] == b"busy":
            raise ConversationBusy(text(answer[1]))
        _, host, owner, container = answer
        return Deleted(
            host=_as(HostId, host), owner=_as(WorkerId, owner), container=optional(container)
        )

    async def _delete(
        self, c: ConversationKey, tenant: TenantId | None, reason: str, *, is_forced: bool
    ) -> Sequence[Any]:
        answer: Sequence[Any] = await self._scripts.run(
            "delete",
            [
                self._keys.conversation(c),
                self._keys.todo(c),
                self._keys.idle(),
                self._keys.lease(c),
            ],
            [
                c,
                tenant or "",
                int(is_forced),
                _CANCELLED,
                reason,
                EVENTS_MAX,
                round(_LAST_WORDS_S * 1000),
                StopSession(conversation=c, is_deleted=True).encode(),
                self._forgotten_at_once,
            ],
        )
        return answer

    async def restore(
        self,
        c: ConversationKey,
        *,
        host: HostId,
        container: str,
        fence: Fence,
        idle_timeout_s: float,
    ) -> bool:
        """Put a living container on record again that Redis has forgotten; True if it is now.

        False for one that belongs to nobody: a leftover, or a deleted or moved conversation's. The
        conversation is warm then, without an owner, and goes cold when it stays idle.
        """
        answer = await self._scripts.run(
            "restore",
            [
                self._keys.conversation(c),
                self._keys.todo(c),
                self._keys.idle(),
                self._keys.lease(c),
                self._keys.host_wipes(host),
                self._keys.epoch(),
            ],
            [
                c,
                host,
                container,
                str(fence),
                round(idle_timeout_s * 1000),
                round(UNKNOWN_TTL_S * 1000),
            ],
        )
        return bool(answer[0])

    async def wipes(self, host: HostId) -> frozenset[ConversationKey]:
        """Deleted conversations that have files on this host."""
        with translate():
            found = await self._redis.smembers(self._keys.host_wipes(host))  # type: ignore[misc]
        return frozenset(ConversationKey(text(c)) for c in found)

    async def is_wipe_due(self, c: ConversationKey, host: HostId) -> bool:
        """Whether what this host has of the conversation belongs to a deleted one."""
        with translate():
            return bool(await self._redis.sismember(self._keys.host_wipes(host), c))  # type: ignore[misc]

    async def wiped(self, c: ConversationKey, host: HostId) -> None:
        """Nothing of it is left on the host."""
        with translate():
            await self._redis.srem(self._keys.host_wipes(host), c)  # type: ignore[misc]


_KEY_DIGITS = 24

_Id = TypeVar("_Id", WorkerId, HostId, TurnId)


def _as(kind: Callable[[str], _Id], reply: object) -> _Id | None:
    value = optional(reply)
    return None if value is None else kind(value)


def _key_in(name: str) -> ConversationKey:
    return ConversationKey(name[-_KEY_DIGITS:])


def _known(c: ConversationKey, held: dict[str, str]) -> ConversationRecord | None:
    return _record(c, held) if "state" in held else None


def _record(c: ConversationKey, held: dict[str, str]) -> ConversationRecord:
    return ConversationRecord(
        conversation=c,
        tenant=TenantId(held.get("tenant", "")),
        label=held.get("label", ""),
        state=word(ConversationState, held["state"]),
        owner=_as(WorkerId, held.get("owner")),
        host=_as(HostId, held.get("host")),
        fence=Fence(int(held.get("fence", 0))),
        container=held.get("container"),
        sdk_session=held.get("sdk_session"),
        turn=_as(TurnId, held.get("turn")),
        turns=int(held.get("turns", 0)),
        created_ms=int(held.get("created", 0)),
        last_active_ms=int(held.get("last_active", 0)),
        idle_at_ms=int(held["idle_at"]) if "idle_at" in held else None,
        lane=word(Lane, held.get("lane", Lane.AGENT)),
        is_resending=held.get("resends") == "1",
        transcript_full=held.get("transcript_full"),
    )
