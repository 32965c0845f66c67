"""Conversations: their records, idle deadlines, and how they are stopped and deleted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from redis.asyncio import Redis

from infra.store.bounds import ENDED_TTL_S, EVENTS_MAX, LISTED_TURNS_MAX
from infra.store.conversations.calls import (
    DeleteAnswer,
    DeleteCall,
    DueCall,
    HibernateCall,
    ListConversationsCall,
    ReapCall,
    RestoreCall,
    StopCall,
    UpdateCall,
)
from infra.store.conversations.leases import Lease
from infra.store.keys import Keys
from infra.store.server.connection import translate
from infra.store.server.replies import fields, optional, text, word
from infra.store.server.scripts import Scripts
from infra.wire.control import StopSession
from infra.wire.errors import ConversationBusy, ConversationNotFound, IllegalTransition, LeaseLost
from infra.wire.events import TurnEnded, encode_event
from infra.wire.ids import ConversationKey, Fence, HostId, TenantId, TurnId, WorkerId
from infra.wire.states import ConversationState, Hibernation, TurnState
from infra.wire.turns import Lane

_CANCELLED = encode_event(TurnEnded(state=TurnState.CANCELLED))
_LAST_WORDS_S = 60.0
_LISTED_AT_ONCE = 50
FORGOTTEN_AT_ONCE = 1000
"""Turns per script call: a few milliseconds of Redis."""

UNKNOWN_TTL_S = 86400.0
"""Seconds that a restored conversation is kept which only its container still knew; its next turn
extends this."""

REAP_AGAIN_S = 60.0
"""Seconds after which a conversation is due again if its reaper died while stopping it."""


@dataclass(frozen=True)
class ConversationRecord:
    """A conversation's hash, typed. Times in Unix ms."""

    conversation: ConversationKey
    tenant: TenantId
    label: str
    state: ConversationState
    owner: WorkerId | None
    """The last worker that took the lease and has not released it. The lease says whether it
    lives."""
    host: HostId | None
    """The host of its container, or of the one that is starting."""
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
    """`side`: belongs to one request, expires minutes after its turn, and is not listed."""
    is_resending: bool = False
    """Whether its client has sent history before."""
    transcript_full: str | None = None
    """An SDK session that grew too large to be stored."""
    hibernated: Hibernation | None = None
    """Why its last container was stopped before the idle deadline; None if it was not, or if it
    has one again."""
    hibernated_at_ms: int | None = None
    caller: ConversationKey | None = None
    """The conversation whose agent called this one's: it is not listed, and deleted with that
    one."""

    @property
    def is_transcript_full(self) -> bool:
        """Whether its session grew too large to be stored."""
        return self.transcript_full is not None and self.transcript_full == self.sdk_session


@dataclass(frozen=True)
class ConversationPage:
    """`cursor` leads to the next page; None on the last one."""

    conversations: Sequence[ConversationRecord]
    cursor: str | None


@dataclass(frozen=True)
class Stopping:
    """The result of a stop. `turn` is being cancelled; the container is stopped when the turn has
    ended."""

    state: ConversationState
    turn: TurnId | None
    owner: WorkerId | None


@dataclass(frozen=True)
class Deleted:
    """What remains to be cleaned up after a delete, by `host`: its workers are told, now or
    later."""

    host: HostId | None
    owner: WorkerId | None
    container: str | None


class ConversationStore:
    """Records of conversations: states, idle deadlines, stops and deletes.

    A record exists from the first submit until the conversation's retention has passed without a
    turn, or until `delete`. Only its owner moves a conversation's state, under the lease's fence;
    the store refuses transitions that `infra.wire.states` does not have. Of several callers of
    `reap`, exactly one wins; only the owner may `hibernate`. `stop` and `delete` work without the
    lease, and the owner learns of them by message, otherwise with its next renewal or sweep. All
    methods raise `StoreUnavailable`.
    """

    def __init__(
        self,
        redis: Redis,
        keys: Keys,
        *,
        ended_ttl_s: float = ENDED_TTL_S,
        forgotten_at_once: int = FORGOTTEN_AT_ONCE,
    ) -> None:
        """`forgotten_at_once` is how many turns one script call of a delete removes."""
        self._redis = redis
        self._keys = keys
        self._scripts = Scripts(redis, keys)
        self._ended_ttl_s = ended_ttl_s
        self._forgotten_at_once = forgotten_at_once

    async def get(self, c: ConversationKey) -> ConversationRecord | None:
        """The record; None if there is none (or no longer)."""
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
        """Move to `state` under the lease, and set the given fields.

        It is not an error if the conversation is already in that state. Raises `LeaseLost`,
        `IllegalTransition`.
        """
        c = lease.conversation
        answer = await self._scripts.run(
            UpdateCall(
                conversation=c,
                worker=lease.worker,
                fence=lease.fence,
                state=state,
                container=container,
                sdk_session=sdk_session,
            ),
            conversation=self._keys.conversation(c),
            idle=self._keys.idle(),
        )
        if answer.outcome == "lost":
            raise LeaseLost(c, lease.fence)
        if answer.outcome == "illegal":
            raise IllegalTransition(f"conversation {c}", answer.state, state)

    async def due(
        self,
        worker: WorkerId | None = None,
        host: HostId | None = None,
        *,
        owned: Iterable[ConversationKey] = (),
        limit: int = 50,
    ) -> Sequence[tuple[ConversationKey, WorkerId | None, HostId | None]]:
        """Conversations whose idle deadline has passed, with their live owner and host.

        With a worker: only those that it has to handle, because it owns them, or nobody does and
        their container was on its `host`, or on a host without live workers. All of `owned`, which
        the worker knows to be its own, are checked and come first. If very many are due, one call
        checks only a part of the others, and returns at most `limit` of them.
        """
        answer = await self._scripts.run(
            DueCall(most=limit, worker=worker, host=host, owned=tuple(owned)),
            idle=self._keys.idle(),
        )
        return [(found.conversation, found.owner, found.host) for found in answer.found]

    async def reap(self, c: ConversationKey, worker: WorkerId) -> bool:
        """Win the right to stop an idle conversation: warm -> stopping.

        The winner finishes with `LeaseStore.release(..., COLD)`. If it dies before that, the
        conversation is due again after `REAP_AGAIN_S`.

        Returns False if another worker won, a turn waits or runs, the deadline was moved, or its
        live owner is another worker.
        """
        answer = await self._scripts.run(
            ReapCall(conversation=c, worker=worker, again_ms=round(REAP_AGAIN_S * 1000)),
            conversation=self._keys.conversation(c),
            todo=self._keys.todo(c),
            idle=self._keys.idle(),
        )
        return answer.outcome == "won"

    async def hibernate(self, lease: Lease, reason: Hibernation) -> bool:
        """Win the right to stop an idle conversation's container for the sake of others: warm ->
        stopping. The record says why and when, until a container starts again.

        The winner finishes as that of `reap` does. Returns False if a turn runs or waits. Raises
        `LeaseLost`.
        """
        c = lease.conversation
        answer = await self._scripts.run(
            HibernateCall(
                conversation=c,
                worker=lease.worker,
                fence=lease.fence,
                reason=reason,
                again_ms=round(REAP_AGAIN_S * 1000),
            ),
            conversation=self._keys.conversation(c),
            todo=self._keys.todo(c),
            idle=self._keys.idle(),
        )
        if answer.outcome == "lost":
            raise LeaseLost(c, lease.fence)
        return answer.outcome == "won"

    async def list(
        self, tenant: TenantId, *, cursor: str | None = None, limit: int = _LISTED_AT_ONCE
    ) -> ConversationPage:
        """A tenant's conversations, the most recently used first. One used meanwhile may be missed.

        Raises `ValueError` for an invalid cursor.
        """
        before, _, last = (cursor or "").partition("-")
        if cursor and not (before.isdecimal() and last):
            raise ValueError("not a cursor")
        answer = await self._scripts.run(
            ListConversationsCall(most=limit, before_ms=before or "+inf", last=last),
            tenant_conversations=self._keys.tenant_conversations(tenant),
        )
        known = [_known(found.conversation, found.record) for found in answer.found]
        end = None
        if len(answer.found) >= limit:
            end = f"{answer.found[-1].last_active_ms}-{answer.found[-1].conversation}"
        return ConversationPage([record for record in known if record], end)

    async def scan(self) -> AsyncIterator[ConversationRecord]:
        """Every conversation of every tenant, in no particular order; for operators."""
        pattern = self._keys.conversation(ConversationKey("*"))
        length = len(pattern) - 1 + _KEY_DIGITS
        cursor = 0
        while True:
            with translate():
                cursor, names = await self._redis.scan(cursor, match=pattern, count=500)
            for name in map(text, names):
                # Other keys of a conversation have longer names.
                found = await self.get(_key_in(name)) if len(name) == length else None
                if found is not None and found.lane is Lane.AGENT:
                    yield found
            if cursor == 0:
                return

    async def turns(self, c: ConversationKey) -> Sequence[TurnId]:
        """Its newest turns, the newest last; their records may have expired."""
        with translate():
            found = await self._redis.lrange(  # type: ignore[misc]
                self._keys.conversation_turns(c), -LISTED_TURNS_MAX, -1
            )
        return [TurnId(text(turn)) for turn in found]

    async def stop(self, c: ConversationKey, *, tenant: TenantId | None, reason: str) -> Stopping:
        """Cancel its turns and stop its container; the conversation is kept.

        `tenant` None: an operator. Raises `ConversationNotFound` (also for another tenant's).
        """
        answer = await self._scripts.run(
            StopCall(
                conversation=c,
                tenant=tenant,
                reason=reason,
                cancelled=_CANCELLED,
                order=StopSession(conversation=c).encode(),
                events_max=EVENTS_MAX,
                ended_ttl_ms=round(self._ended_ttl_s * 1000),
            ),
            conversation=self._keys.conversation(c),
            idle=self._keys.idle(),
        )
        if answer.outcome == "unknown":
            raise ConversationNotFound(c)
        return Stopping(state=ConversationState(answer.state), turn=answer.turn, owner=answer.owner)

    async def delete(
        self,
        c: ConversationKey,
        *,
        tenant: TenantId | None,
        reason: str,
        is_forced: bool = False,
    ) -> Deleted:
        """Delete it everywhere: record, memory, turns and their logs, container and files; and the
        conversations of agents that its agent has called.

        When this returns, it is gone from Redis. Its host's workers remove the rest within seconds,
        or as soon as a worker is running again. Raises `ConversationBusy` while a turn runs or
        waits, unless forced: then its turns end as cancelled, a running one with what is logged so
        far. To let a running turn end properly, call `stop` first. Raises `ConversationNotFound`
        (also for another tenant's; `tenant` None: an operator).
        """
        call = DeleteCall(
            conversation=c,
            tenant=tenant,
            is_forced=is_forced,
            cancelled=_CANCELLED,
            reason=reason,
            events_max=EVENTS_MAX,
            ended_ttl_ms=round(_LAST_WORDS_S * 1000),
            order=StopSession(conversation=c, is_deleted=True).encode(),
            forgotten_at_once=self._forgotten_at_once,
        )
        answer = await self._delete(call)
        while answer.outcome in ("more", "called"):
            if answer.called is not None:
                with suppress(ConversationNotFound):
                    await self.delete(answer.called, tenant=tenant, reason=reason, is_forced=True)
            answer = await self._delete(call)
        if answer.outcome == "unknown":
            raise ConversationNotFound(c)
        if answer.outcome == "busy":
            raise ConversationBusy(answer.turn)
        return Deleted(host=answer.host, owner=answer.owner, container=answer.container)

    async def _delete(self, call: DeleteCall) -> DeleteAnswer:
        c = call.conversation
        return await self._scripts.run(
            call,
            conversation=self._keys.conversation(c),
            todo=self._keys.todo(c),
            idle=self._keys.idle(),
            lease=self._keys.lease(c),
        )

    async def restore(
        self,
        c: ConversationKey,
        *,
        host: HostId,
        container: str,
        fence: Fence,
        idle_timeout_s: float,
    ) -> bool:
        """Record a live container that Redis has forgotten. Returns whether it is recorded now.

        False for one that nobody needs: a leftover, or a container of a deleted or moved
        conversation. A restored conversation is warm, has no owner, and becomes cold if it stays
        idle.
        """
        answer = await self._scripts.run(
            RestoreCall(
                conversation=c,
                host=host,
                container=container,
                fence=fence,
                idle_timeout_ms=round(idle_timeout_s * 1000),
                unknown_ttl_ms=round(UNKNOWN_TTL_S * 1000),
            ),
            conversation=self._keys.conversation(c),
            lease=self._keys.lease(c),
            host_wipes=self._keys.host_wipes(host),
            epoch=self._keys.epoch(),
        )
        return answer.outcome == "restored"

    async def wipes(self, host: HostId) -> frozenset[ConversationKey]:
        """Deleted conversations that have files on this host."""
        with translate():
            found = await self._redis.smembers(self._keys.host_wipes(host))  # type: ignore[misc]
        return frozenset(ConversationKey(text(c)) for c in found)

    async def is_wipe_due(self, c: ConversationKey, host: HostId) -> bool:
        """Whether this host's files of the conversation belong to a deleted one."""
        with translate():
            return bool(await self._redis.sismember(self._keys.host_wipes(host), c))  # type: ignore[misc]

    async def wiped(self, c: ConversationKey, host: HostId) -> None:
        """The host has removed all its files."""
        with translate():
            await self._redis.srem(self._keys.host_wipes(host), c)  # type: ignore[misc]


_KEY_DIGITS = 24

_Id = TypeVar("_Id", WorkerId, HostId, TurnId, ConversationKey)


def _as(kind: Callable[[str], _Id], reply: object) -> _Id | None:
    value = optional(reply)
    return None if value is None else kind(value)


def _key_in(name: str) -> ConversationKey:
    return ConversationKey(name[-_KEY_DIGITS:])


def _known(c: ConversationKey, held: Mapping[str, str]) -> ConversationRecord | None:
    return _record(c, held) if "state" in held else None


def _record(c: ConversationKey, held: Mapping[str, str]) -> ConversationRecord:
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
        idle_at_ms=int(held["idle_at"]) if "idle_at" in held and "turn" not in held else None,
        lane=word(Lane, held.get("lane", Lane.AGENT)),
        is_resending=held.get("resends") == "1",
        transcript_full=held.get("transcript_full"),
        hibernated=word(Hibernation, held["hibernated"]) if "hibernated" in held else None,
        hibernated_at_ms=int(held["hibernated_at"]) if "hibernated_at" in held else None,
        caller=_as(ConversationKey, held.get("caller")),
    )
