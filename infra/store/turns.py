"""Turns: submit, claim, cancel, finish; the turn's record. The log's bytes are in `turn_log`."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from redis.asyncio import Redis

from infra.runtime.contents import Contents, PlainContents
from infra.runtime.logs import fields as about
from infra.runtime.threads import in_thread
from infra.store.conversations import ENDED_TTL_S, LISTED_TURNS_MAX
from infra.store.history import Memory, TurnBase, UnheardTurn, keep_heads, read_accepted
from infra.store.keys import Keys
from infra.store.leases import LEASE_S, Lease
from infra.store.limits import SubmitLimits, refusal
from infra.store.server.connection import translate
from infra.store.server.replies import fields, optional, text
from infra.store.server.scripts import Scripts
from infra.store.turn_log import EVENTS_MAX, event_place
from infra.store.turn_records import (
    Claimed,
    NewTurn,
    OpenTurnRef,
    RepeatOf,
    Submitted,
    TurnRecord,
    Unheard,
    open_turn,
    turn_record,
)
from infra.store.usage import report
from infra.wire.control import CancelTurn, TurnWaits
from infra.wire.endings import declared_end
from infra.wire.errors import (
    ErrorCode,
    IllegalTransition,
    LeaseLost,
    TurnLogTorn,
    TurnNotFound,
    UnknownMessage,
)
from infra.wire.events import TurnEnded, encode_event
from infra.wire.gateway import TurnMeter
from infra.wire.history import Accepted
from infra.wire.ids import ConversationKey, HostId, TenantId, TurnId, WorkerId
from infra.wire.states import TurnState
from infra.wire.turns import TurnRequest, decode_turn_request
from infra.wire.words import Case

log = logging.getLogger(__name__)

__all__ = ["Claimed", "NewTurn", "OpenTurnRef", "RepeatOf", "Submitted", "TurnRecord", "TurnStore"]
"""With what it gives and takes (`turn_records`)."""

ATTEMPTS_MAX = 2
ADOPTIONS_MAX = 3
"""Owners in a row that a running turn may lose without another event of it being logged. The third
death is no coincidence any more: the turn brings down its owners.
"""
REFUSALS_MAX = 20
"""How often hosts may fail to start anything for a turn before that counts as its attempts: enough
for half a dozen hosts in turn to find out that their engines are broken, and still an end.
"""

_OPEN_TTL_S = 86400.0
_CLAIMED_LOOK_AFTER_S = LEASE_S - 2.0
_LOOK_PAUSE_MAX_S = 15.0
_RETRY_AFTER_S = 5.0
_TENANTS_LOOKED_AT = 100


class TurnStore:
    def __init__(
        self,
        redis: Redis,
        keys: Keys,
        *,
        ended_ttl_s: float = ENDED_TTL_S,
        contents: Contents | None = None,
    ) -> None:
        """`ended_ttl_s` is how long an ended turn can be come back to."""
        self._redis = redis
        self._contents = contents or PlainContents()
        self._keys = keys
        self._scripts = Scripts(redis, keys)
        self._ended_ttl_s = ended_ttl_s

    async def submit(self, new: NewTurn, *, limits: SubmitLimits, retention_s: float) -> Submitted:
        """Create the turn and put it into its conversation's FIFO, or find the one it repeats.

        Raises `RequestRefused` when a bound is reached (never for a repeat) and `StoreUnavailable`.
        """
        request = new.request
        c, turn, tenant = request.conversation, request.turn, request.tenant
        digest = self._contents.blind(new.idempotency or "")
        sent = tuple(map(self._contents.blind, request.sent))
        tails = tuple(map(self._contents.blind, request.tails))
        request = request.model_copy(update={"sent": sent, "tails": tails})
        written = (
            await in_thread(partial(self._written, request))
            if new.is_large
            else self._written(request)
        )
        answer = await self._scripts.run(
            "submit",
            self._touched_by_submit(request, digest),
            [
                c,
                turn,
                tenant,
                new.label,
                written,
                new.replica,
                new.asked_model or request.model,
                new.sealed_key,
                new.key_expires_ms,
                new.on_disconnect.value,
                limits.turns_waiting_max,
                digest,
                _ms(_OPEN_TTL_S + request.deadline_s),
                _ms(retention_s),
                _ms(_OPEN_TTL_S + request.deadline_s),
                _ms(_OPEN_TTL_S),
                _ms(request.idle_timeout_s),
                request.lane.value,
                new.supersedes or "",
                LISTED_TURNS_MAX,
                TurnWaits(conversation=c, turn=turn).encode(),
                limits.queue_max,
                limits.tenant_turns_max,
                limits.tenant_queue_max,
                limits.tenant_budget_tokens,
                request.profile or "",
                limits.tenant_bytes_max,
                new.reader or "",
                new.repeats.value,
                "1" if request.is_thin and not request.history else "",
            ],
        )
        if answer[0] not in (b"created", b"joined", b"repeated"):
            raise refusal(text(answer[0]), turns=int(answer[1]), oldest_ms=int(answer[2]))
        owner = optional(answer[2])
        return Submitted(
            turn=TurnId(text(answer[1])),
            created=answer[0] == b"created",
            owner=None if owner is None else WorkerId(owner),
            position=int(answer[3]),
            is_told=int(answer[4]) > 0,
            is_joined=answer[0] == b"joined",
        )

    def _written(self, request: TurnRequest) -> str | bytes:
        return self._contents.seal(request.encode(), _place(request.turn))

    def _touched_by_submit(self, request: TurnRequest, digest: str) -> list[str]:
        c, turn, tenant = request.conversation, request.turn, request.tenant
        keys = [
            self._keys.conversation(c),
            self._keys.todo(c),
            self._keys.turn(turn),
            self._keys.turn_request(turn),
            self._keys.turns_open(),
            self._keys.idle(),
            self._keys.tenant_running(tenant),
        ]
        return [*keys, self._keys.idempotency(tenant, digest)] if digest else keys

    async def claim(self, lease: Lease) -> Claimed | None:
        """The conversation's unfinished turn (adoption), else the head of its FIFO, else None.

        Counts the attempt before the start; a turn out of attempts is finished as failed and the
        next is taken; one cancelled meanwhile is skipped. Raises `LeaseLost`.

        Of a turn that runs, adoption is no new attempt: its agent goes on.
        """
        c = lease.conversation
        answer = await self._scripts.run(
            "claim",
            [
                self._keys.conversation(c),
                self._keys.todo(c),
                self._keys.turns_open(),
                self._keys.idle(),
            ],
            [
                c,
                lease.worker,
                str(lease.fence),
                ATTEMPTS_MAX,
                _ms(_CLAIMED_LOOK_AFTER_S),
                _OUT_OF_ATTEMPTS,
                ErrorCode.CONTAINER_FAILED.value,
                CANCELLED,
                EVENTS_MAX,
                _ms(self._ended_ttl_s),
            ],
        )
        if answer[0] == b"none":
            return None
        self._owned(answer, lease)
        _, turn, is_adoption, host, held, request, session, *rest = answer
        resends, too_large, entries, profile, waiting, age_ms = rest
        kept = [read_accepted(self._contents, c, entry) for entry in entries]
        said = {TurnId(text(id)): raw for id, raw in zip(waiting[::2], waiting[1::2], strict=True)}
        host_id = optional(host)
        return Claimed(
            record=turn_record(TurnId(text(turn)), fields(held)),
            request=decode_turn_request(self._contents.open(request, _place(TurnId(text(turn))))),
            is_adoption=bool(is_adoption),
            host=None if host_id is None else HostId(host_id),
            accepted=tuple(entry for entry in kept if isinstance(entry, Accepted)),
            unheard=tuple(
                self._unheard(entry, said) for entry in kept if isinstance(entry, UnheardTurn)
            ),
            sdk_session=optional(session),
            is_resending=optional(resends) is not None,
            is_transcript_full=too_large == session,
            profile=optional(profile),
            age_s=int(age_ms) / 1000,
        )

    def _unheard(self, entry: UnheardTurn, said: Mapping[TurnId, bytes]) -> Unheard:
        if entry.turn not in said:
            return Unheard(digest="", prompt=())
        raw = self._contents.open(said[entry.turn], _place(entry.turn))
        request = decode_turn_request(raw)
        return Unheard(digest=request.sent[-1] if request.sent else "", prompt=request.prompt)

    async def start(
        self,
        lease: Lease,
        turn: TurnId,
        *,
        base: TurnBase | None = None,
        is_resending: bool = False,
    ) -> None:
        """claimed -> running: from now on the turn may have had effects.

        `base` is what `finish` makes of the conversation's accepted prompts (None: nothing), and
        what an adopter starts the turn on. `is_resending`: the client has sent history. Raises
        `LeaseLost`, `IllegalTransition`.
        """
        c, heads = lease.conversation, list[str]()
        if base is not None:
            heads = [
                keep_heads(self._contents, c, [head], of=digest)
                for digest, head in zip(base.before, base.heads, strict=False)
            ]
            base = base.model_copy(update={"heads": ()})
        answer = await self._scripts.run(
            "start",
            [self._keys.conversation(c)],
            [
                lease.worker,
                str(lease.fence),
                turn,
                base.encode() if base else "",
                "1" if is_resending else "",
                json.dumps(heads) if heads else "",
            ],
        )
        self._owned(answer, lease, turn, TurnState.RUNNING)

    async def requeue(self, lease: Lease, turn: TurnId, *, is_counted: bool = True) -> bool:
        """claimed -> queued, at the FIFO's head.

        `is_counted` False: it was no start of the turn, for its host could not even try; its
        attempt is given back, up to `REFUSALS_MAX` times.

        False when its log is not empty or attempts are spent. One that somebody wants stopped ends
        as cancelled instead (True: it is not yours any more). Raises `LeaseLost`.
        """
        c = lease.conversation
        answer = await self._scripts.run(
            "requeue",
            [self._keys.conversation(c), self._keys.todo(c), self._keys.turns_open()],
            [
                c,
                lease.worker,
                str(lease.fence),
                turn,
                ATTEMPTS_MAX,
                CANCELLED,
                EVENTS_MAX,
                _ms(self._ended_ttl_s),
                _ms(_OPEN_TTL_S),
                0 if is_counted else REFUSALS_MAX,
            ],
        )
        self._owned(answer, lease)
        return bool(answer[0] == b"ok")

    async def finish(
        self,
        lease: Lease,
        turn: TurnId,
        n: int,
        end: TurnEnded,
        *,
        idle_timeout_s: float,
        memory: Memory = Memory.TOLD,
        digest: str | None = None,
        meter: TurnMeter | None = None,
    ) -> bool:
        """Log the end event under number `n`, delete the sealed key, close the turn, book what the
        gateway metered.

        Carries out the turn's base on the accepted prompts, as far as `memory` says what the agent
        remembers; `digest` is its prompt's. Sets the conversation's idle deadline when nothing
        waits. True when another turn waits.
        Finishing twice is harmless; a log has one end. Raises `LeaseLost`, `IllegalTransition`, and
        `TurnLogTorn` when events before `n` are not there any more; nothing is written then.
        """
        c, payload = lease.conversation, encode_event(end)
        answer = await self._scripts.run(
            "finish",
            [self._keys.conversation(c)],
            [
                c,
                lease.worker,
                str(lease.fence),
                turn,
                n,
                self._contents.seal_event(payload, event_place(turn, n, payload)),
                end.state.value,
                end.error.code.value if end.error else "",
                end.usage.encode(),
                _ms(idle_timeout_s),
                EVENTS_MAX,
                _ms(self._ended_ttl_s),
                memory.value,
                end.checkpoint or "",
                keep_heads(self._contents, c, end.heads, of=digest) if digest else "",
                report(meter) if meter else "",
            ],
        )
        self._owned(answer, lease, turn, end.state)
        if answer[0] == b"torn":
            raise TurnLogTorn(turn, int(answer[1]))
        return bool(answer[1])

    async def cancel(self, turn: TurnId, *, tenant: TenantId, reason: str) -> TurnState:
        """Ask for the end of a turn; the state it is now in.

        A queued turn is cancelled at once (its log gets an end event). Of a running one the flag is
        set and its worker told. Raises `TurnNotFound` for an unknown turn or another tenant's.
        """
        with translate():
            c = optional(await self._redis.hget(self._keys.turn(turn), "conv"))  # type: ignore[misc]
        if c is None:
            raise TurnNotFound(turn)
        order = CancelTurn(turn=turn, conversation=ConversationKey(c), reason=reason)
        answer = await self._scripts.run(
            "cancel",
            [self._keys.turn(turn)],
            [turn, tenant, reason, CANCELLED, order.encode(), EVENTS_MAX, _ms(self._ended_ttl_s)],
        )
        if answer[0] == b"unknown":
            raise TurnNotFound(turn)
        return TurnState(text(answer[1]))

    async def mark_delivered(self, turn: TurnId) -> None:
        """A client has been given the whole answer: a repeat asks for another one.

        A turn that is gone is no error. Raises `StoreUnavailable`.
        """
        await self._scripts.run("mark_delivered", [self._keys.turn(turn)], [])

    async def expire(self, turn: TurnId) -> bool:
        """queued -> expired with an end event (code queue_timeout).

        False when it is not queued any more.
        """
        end = declared_end(
            ErrorCode.QUEUE_TIMEOUT, state=TurnState.EXPIRED, retry_after_s=_RETRY_AFTER_S
        )
        answer = await self._scripts.run(
            "expire",
            [self._keys.turn(turn)],
            [
                turn,
                ErrorCode.QUEUE_TIMEOUT.value,
                encode_event(end),
                EVENTS_MAX,
                _ms(self._ended_ttl_s),
            ],
        )
        return bool(answer[0])

    async def get(self, turn: TurnId) -> TurnRecord | None:
        """What is on record; None for a turn Redis does not know (any more)."""
        with translate():
            held = fields(await self._redis.hgetall(self._keys.turn(turn)))  # type: ignore[misc]
        return turn_record(turn, held) if "state" in held else None

    async def age_ms(self, turn: TurnId) -> int | None:
        """How long ago it was asked for, by the clock of Redis alone; None of an unknown turn."""
        with translate():
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.hget(self._keys.turn(turn), "created")
                pipe.time()
                created, (seconds, micros) = await pipe.execute()
        if created is None:
            return None
        return max(int(seconds) * 1000 + int(micros) // 1000 - int(created), 0)

    async def position(self, turn: TurnId) -> int | None:
        """How many turns will be started before this one (0: it is next), if nothing else comes.

        Tenants with something in the waiting room are served in turn; those of its own
        conversation before it count too. None when it does not wait. Raises `StoreUnavailable`.
        """
        answer = await self._scripts.run(
            "position",
            [self._keys.turn(turn), self._keys.ring()],
            [turn, _TENANTS_LOOKED_AT],
        )
        return int(answer[0]) if answer else None

    async def unclaimed(self, *, older_than_ms: int, limit: int = 50) -> list[OpenTurnRef]:
        """Open turns due for a look: queued ones nobody claimed, begun ones whose lease lapsed.
        Begun ones whose conversation was lost are ended.

        Each is moved ahead in `turns:open`, so that sweepers do not all find the same; one that
        goes on waiting by more each time.
        """
        answer = await self._scripts.run(
            "unclaimed",
            [self._keys.turns_open()],
            [
                older_than_ms,
                limit,
                _ms(_LOOK_PAUSE_MAX_S),
                _ms(LEASE_S),
                _ADRIFT,
                ErrorCode.LOG_LOST.value,
                EVENTS_MAX,
                _ms(self._ended_ttl_s),
            ],
        )
        refs = []
        for found in answer:
            try:
                refs.append(open_turn(found))
            except UnknownMessage as error:
                # Of a later version, for its workers: the others are looked at all the same.
                log.info("turn left to others: %s", error, extra=about(turn=text(found[0])))
        return refs

    async def counts(self) -> Mapping[str, int]:
        """Numbers for health and metrics: open, idle, workers."""
        answer = await self._scripts.run(
            "counts", [self._keys.turns_open(), self._keys.idle(), self._keys.workers()], []
        )
        return dict(zip(("open", "idle", "workers"), map(int, answer), strict=True))

    def _owned(
        self,
        answer: Sequence[Any],
        lease: Lease,
        turn: TurnId | None = None,
        wanted: TurnState | None = None,
    ) -> None:
        if answer[0] == b"lost":
            raise LeaseLost(lease.conversation, lease.fence)
        if answer[0] == b"illegal":
            raise IllegalTransition(f"turn {turn}", text(answer[1]), str(wanted))


CANCELLED = encode_event(TurnEnded(state=TurnState.CANCELLED))
"""How a turn ends that was told to before it had an agent."""
_ADRIFT = encode_event(declared_end(Case.CONVERSATION_LOST))
_OUT_OF_ATTEMPTS = encode_event(declared_end(Case.STARTS_SPENT))


def _place(turn: TurnId) -> str:
    return f"request {turn}"


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
