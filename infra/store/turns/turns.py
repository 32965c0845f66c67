"""Turns: submit, claim, cancel, finish, and their records. The log is in `turn_log`."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from functools import partial

from redis.asyncio import Redis

from infra.runtime.contents import Contents, PlainContents
from infra.runtime.logs import fields as about
from infra.runtime.threads import in_thread
from infra.store.access.limits import SubmitLimits
from infra.store.access.usage import report
from infra.store.bounds import ENDED_TTL_S, EVENTS_MAX
from infra.store.conversations.leases import LEASE_S, Lease
from infra.store.keys import Keys
from infra.store.server.connection import translate
from infra.store.server.replies import fields, optional, text
from infra.store.server.scripts import Scripts
from infra.store.turns.calls import (
    CancelCall,
    ClaimCall,
    ExpireCall,
    FinishCall,
    MarkDeliveredCall,
    PositionCall,
    RequeueCall,
    StartCall,
    UnclaimedCall,
)
from infra.store.turns.claims import ClaimReader, claim_of, request_place
from infra.store.turns.history import Memory, TurnBase, keep_heads
from infra.store.turns.log import event_place
from infra.store.turns.records import (
    Claimed,
    NewTurn,
    OpenTurnRef,
    RepeatOf,
    Submitted,
    TurnRecord,
    open_turn,
    turn_record,
)
from infra.store.turns.submission import (
    CLAIMED_LOOK_AFTER_S,
    blinded,
    submit_call,
    submit_keys,
    submitted,
)
from infra.wire.control import BegunTurn, CancelTurn
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
from infra.wire.ids import ConversationKey, TenantId, TurnId
from infra.wire.states import TurnState
from infra.wire.text.words import Case
from infra.wire.turns import TurnRequest

log = logging.getLogger(__name__)

__all__ = ["Claimed", "NewTurn", "OpenTurnRef", "RepeatOf", "Submitted", "TurnRecord", "TurnStore"]
"""Including the types that it uses (`turn_records`)."""

ATTEMPTS_MAX = 2
ADOPTIONS_MAX = 3
"""Consecutive owners that a running turn may lose without a new logged event. A third death is not
a coincidence: the turn brings down its owners."""
REFUSALS_MAX = 20
"""How often hosts may fail to start anything for a turn before that counts as its attempts. Enough
for half a dozen hosts to find out that their engines are broken, but still a limit."""

_LOOK_PAUSE_MAX_S = 15.0
_RETRY_AFTER_S = 5.0
_TENANTS_LOOKED_AT = 100


_TURN_DIGITS = 32
"""Hex digits of a turn's id."""


class TurnStore:
    """The lives of turns, from submit to end.

    Each step is one script, so a turn is never half changed. A repeated submit finds its turn
    instead of creating another. A turn is claimed by one owner at a time, under the conversation's
    lease, in the order of the conversation's FIFO; it is started at most twice, and never again
    once its log has an event. Every turn ends exactly once, with one end event in its log;
    finishing or cancelling it again is harmless. Its record can be read until `ended_ttl_s` seconds
    after the end. All methods raise `StoreUnavailable`, after which repeating the call is safe.
    """

    def __init__(
        self,
        redis: Redis,
        keys: Keys,
        *,
        ended_ttl_s: float = ENDED_TTL_S,
        contents: Contents | None = None,
    ) -> None:
        """`ended_ttl_s`: seconds that an ended turn can be fetched."""
        self._redis = redis
        self._contents = contents or PlainContents()
        self._keys = keys
        self._scripts = Scripts(redis, keys)
        self._claims = ClaimReader(redis, keys, self._contents)
        self._ended_ttl_s = ended_ttl_s

    async def submit(self, new: NewTurn, *, limits: SubmitLimits, retention_s: float) -> Submitted:
        """Create the turn and append it to its conversation's FIFO, or find the turn that it
        repeats.

        Raises `RequestRefused` if a limit is reached (never for a repeat) and `StoreUnavailable`;
        for a turn that an agent calls, also `CallerOver` and `CallsTooMany`.
        If the answer is lost or the call is cancelled, the turn may exist: `TurnReaders.withdraw`
        then leaves it.
        """
        request = blinded(new.request, self._contents)
        written = (
            await in_thread(partial(self._written, request))
            if new.is_large
            else self._written(request)
        )
        digest = self._contents.blind(new.idempotency or "")
        call = submit_call(new, written, digest=digest, limits=limits, retention_s=retention_s)
        answer = await self._scripts.run(call, **submit_keys(self._keys, request, digest))
        return submitted(answer)

    def _written(self, request: TurnRequest) -> str | bytes:
        return self._contents.seal(request.encode(), request_place(request.turn))

    async def claim(self, lease: Lease) -> Claimed | None:
        """The conversation's unfinished turn (adoption), otherwise the head of its FIFO, otherwise
        None.

        Counts the attempt before the start. A turn without attempts left is finished as failed, and
        the next one is taken; a turn that was cancelled meanwhile is skipped. Raises `LeaseLost`.

        Adopting a running turn is not a new attempt, because its agent continues.
        """
        c = lease.conversation
        answer = await self._scripts.run(
            ClaimCall(
                conversation=c,
                worker=lease.worker,
                fence=lease.fence,
                attempts_max=ATTEMPTS_MAX,
                look_after_ms=_ms(CLAIMED_LOOK_AFTER_S),
                out_of_attempts=_OUT_OF_ATTEMPTS,
                out_of_attempts_code=ErrorCode.CONTAINER_FAILED,
                cancelled=CANCELLED,
                events_max=EVENTS_MAX,
                ended_ttl_ms=_ms(self._ended_ttl_s),
            ),
            conversation=self._keys.conversation(c),
            todo=self._keys.todo(c),
            turns_open=self._keys.turns_open(),
            idle=self._keys.idle(),
        )
        if answer.outcome == "lost":
            raise LeaseLost(c, lease.fence)
        return await self._claims.read(c, answer) if answer.outcome == "claimed" else None

    async def begun(self, c: ConversationKey, turn: TurnId, begun: BegunTurn) -> Claimed:
        """A turn that the submit script began for this owner, as its claim would find it.

        Raises `StoreUnavailable`, `MalformedMessage`, `UnknownMessage`, `ContentNotOpened`.
        """
        return await self._claims.read(c, claim_of(turn, begun))

    async def start(
        self,
        lease: Lease,
        turn: TurnId,
        *,
        base: TurnBase | None = None,
        is_resending: bool = False,
    ) -> None:
        """claimed -> running: from now on the turn may have had effects.

        `base` is what `finish` applies to the conversation's accepted prompts (None: nothing), and
        what an adopter starts the turn with. `is_resending`: the client has sent history. Raises
        `LeaseLost`, `IllegalTransition`.
        """
        c, heads = lease.conversation, list[str]()
        if base is not None:
            heads = [
                keep_heads(self._contents, c, [head], of=digest)
                for digest, head in zip(base.before, base.heads, strict=False)
            ]
        answer = await self._scripts.run(
            StartCall(
                worker=lease.worker,
                fence=lease.fence,
                turn=turn,
                base=self._kept_base(base),
                is_resending=is_resending,
                heads=json.dumps(heads) if heads else "",
            ),
            conversation=self._keys.conversation(c),
        )
        if answer.outcome == "lost":
            raise LeaseLost(c, lease.fence)
        if answer.outcome == "illegal":
            raise IllegalTransition(f"turn {turn}", answer.state, TurnState.RUNNING)

    def _kept_base(self, base: TurnBase | None) -> bytes:
        if base is None:
            return b""
        past = base.past and self._contents.blind(base.past)
        return base.model_copy(update={"heads": (), "past": past}).encode()

    async def requeue(self, lease: Lease, turn: TurnId, *, is_counted: bool = True) -> bool:
        """claimed -> queued, at the head of the FIFO.

        `is_counted` False: the turn was not really started, because its host could not even try.
        Its attempt is given back, up to `REFUSALS_MAX` times.

        Returns False if its log is not empty or its attempts are used up. A turn that somebody
        wants stopped ends as cancelled instead (True: it is no longer yours). Raises `LeaseLost`.
        """
        c = lease.conversation
        answer = await self._scripts.run(
            RequeueCall(
                conversation=c,
                worker=lease.worker,
                fence=lease.fence,
                turn=turn,
                attempts_max=ATTEMPTS_MAX,
                refusals_max=0 if is_counted else REFUSALS_MAX,
                cancelled=CANCELLED,
                events_max=EVENTS_MAX,
                ended_ttl_ms=_ms(self._ended_ttl_s),
            ),
            conversation=self._keys.conversation(c),
            turns_open=self._keys.turns_open(),
        )
        if answer.outcome == "lost":
            raise LeaseLost(c, lease.fence)
        return answer.outcome == "ok"

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
        base: TurnBase | None = None,
        meter: TurnMeter | None = None,
    ) -> bool:
        """Log the end event under number `n`, delete the sealed key, close the turn, and book what
        the gateway metered.

        Applies the turn's base to the accepted prompts, as far as `memory` says what the agent
        remembers; `digest` is its prompt's. `base` is that of a turn that its submit began and for
        which `start` was not called. Sets the conversation's idle deadline if nothing waits.
        Returns True if another turn waits.

        Finishing twice is harmless; a log has one end. Raises `LeaseLost`, `IllegalTransition`, and
        `TurnLogTorn` if events before `n` are missing; then nothing is written.
        """
        c, payload = lease.conversation, encode_event(end)
        answer = await self._scripts.run(
            FinishCall(
                conversation=c,
                worker=lease.worker,
                fence=lease.fence,
                turn=turn,
                n=n,
                end_event=self._contents.seal_event(payload, event_place(turn, n, payload)),
                state=end.state,
                reason=end.error.code if end.error else "",
                usage=end.usage.encode(),
                idle_timeout_ms=_ms(idle_timeout_s),
                events_max=EVENTS_MAX,
                ended_ttl_ms=_ms(self._ended_ttl_s),
                memory=memory,
                base=self._kept_base(base),
                checkpoint=end.checkpoint,
                answer_heads=keep_heads(self._contents, c, end.heads, of=digest) if digest else "",
                metered=report(meter) if meter else "",
            ),
            conversation=self._keys.conversation(c),
        )
        match answer.outcome:
            case "lost":
                raise LeaseLost(c, lease.fence)
            case "illegal":
                raise IllegalTransition(f"turn {turn}", answer.state, end.state)
            case "torn":
                raise TurnLogTorn(turn, answer.newest)
        return answer.is_next_waiting

    async def cancel(self, turn: TurnId, *, tenant: TenantId, reason: str) -> TurnState:
        """Cancel a turn and return its current state.

        A queued turn ends at once (its log gets an end event). For a running one, the flag is set
        and its worker is told. Raises `TurnNotFound` for an unknown turn or another tenant's.
        """
        with translate():
            c = optional(await self._redis.hget(self._keys.turn(turn), "conv"))  # type: ignore[misc]
        if c is None:
            raise TurnNotFound(turn)
        order = CancelTurn(turn=turn, conversation=ConversationKey(c), reason=reason)
        answer = await self._scripts.run(
            CancelCall(
                turn=turn,
                tenant=tenant,
                reason=reason,
                cancelled=CANCELLED,
                order=order.encode(),
                events_max=EVENTS_MAX,
                ended_ttl_ms=_ms(self._ended_ttl_s),
            ),
        )
        if answer.outcome == "unknown":
            raise TurnNotFound(turn)
        return TurnState(answer.state)

    async def mark_delivered(self, turn: TurnId) -> None:
        """A client has received the whole answer, so a repeat asks for another one.

        It is not an error if the turn is gone. Raises `StoreUnavailable`.
        """
        await self._scripts.run(MarkDeliveredCall(), turn=self._keys.turn(turn))

    async def expire(self, turn: TurnId) -> bool:
        """queued -> expired with an end event (code queue_timeout).

        Returns False if it is no longer queued.
        """
        end = declared_end(
            ErrorCode.QUEUE_TIMEOUT, state=TurnState.EXPIRED, retry_after_s=_RETRY_AFTER_S
        )
        answer = await self._scripts.run(
            ExpireCall(
                turn=turn,
                reason=ErrorCode.QUEUE_TIMEOUT,
                end_event=encode_event(end),
                events_max=EVENTS_MAX,
                ended_ttl_ms=_ms(self._ended_ttl_s),
            ),
        )
        return answer.outcome == "expired"

    async def get(self, turn: TurnId) -> TurnRecord | None:
        """The record; None if Redis does not know the turn (or no longer)."""
        with translate():
            held = fields(await self._redis.hgetall(self._keys.turn(turn)))  # type: ignore[misc]
        return turn_record(turn, held) if "state" in held else None

    async def scan(self) -> AsyncIterator[TurnRecord]:
        """Every turn that is on record, of every tenant, in no particular order; for operators."""
        pattern = self._keys.turn(TurnId("turn_" + "?" * _TURN_DIGITS))
        cursor = 0
        while True:
            with translate():
                cursor, names = await self._redis.scan(cursor, match=pattern, count=500)
            for name in map(text, names):
                found = await self.get(TurnId(name.rpartition(":")[2]))
                if found is not None:
                    yield found
            if cursor == 0:
                return

    async def lent_tokens(self, turn: TurnId) -> int:
        """Tokens of its budget that agents which its agent has called have used, or may still
        use. Raises `StoreUnavailable`."""
        with translate():
            called = optional(await self._redis.hget(self._keys.turn(turn), "called"))  # type: ignore[misc]
        return sum([await self._used_of(*entry.split(":")) for entry in (called or "").split()])

    async def _used_of(self, called: str, granted: str) -> int:
        """What a called turn, and those that its agent has called, have used. Until it has ended,
        all that it may."""
        turn = TurnId(called)
        record = await self.get(turn)
        if record is None or not record.state.is_terminal:
            return int(granted)
        own = record.usage.spent_tokens if record.usage else 0
        return own + await self.lent_tokens(turn)

    async def repeated(self, tenant: TenantId, digest: str) -> TurnId | None:
        """The turn that a request with this digest would repeat; None if there is none on
        record."""
        key = self._keys.idempotency(tenant, self._contents.blind(digest))
        with translate():
            turn = optional(await self._redis.get(key))
        return None if turn is None else TurnId(turn)

    async def age_ms(self, turn: TurnId) -> int | None:
        """Milliseconds since it was submitted, by the clock of Redis alone; None for an unknown
        turn."""
        with translate():
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.hget(self._keys.turn(turn), "created")
                pipe.time()
                created, (seconds, micros) = await pipe.execute()
        if created is None:
            return None
        return max(int(seconds) * 1000 + int(micros) // 1000 - int(created), 0)

    async def position(self, turn: TurnId) -> int | None:
        """How many turns will be started before this one (0: it is next) if no others arrive.

        Tenants with turns in the waiting room are served in turn; earlier turns of its own
        conversation count too. None if it does not wait. Raises `StoreUnavailable`.
        """
        answer = await self._scripts.run(
            PositionCall(turn=turn, tenants_max=_TENANTS_LOOKED_AT),
            ring=self._keys.ring(),
        )
        return answer.ahead if answer.outcome == "waits" else None

    async def unclaimed(self, *, older_than_ms: int, limit: int = 50) -> list[OpenTurnRef]:
        """Open turns that are due for a check: queued ones that nobody claimed, begun ones whose
        lease has expired. Begun turns whose conversation was lost are ended.

        Each is moved ahead in `turns:open`, so that sweepers do not all find the same turns; a turn
        that keeps waiting is moved further each time.
        """
        answer = await self._scripts.run(
            UnclaimedCall(
                pause_ms=older_than_ms,
                most=limit,
                pause_max_ms=_ms(_LOOK_PAUSE_MAX_S),
                lease_ms=_ms(LEASE_S),
                adrift=_ADRIFT,
                adrift_code=ErrorCode.LOG_LOST,
                events_max=EVENTS_MAX,
                ended_ttl_ms=_ms(self._ended_ttl_s),
            ),
            turns_open=self._keys.turns_open(),
        )
        refs = []
        for found in answer.found:
            try:
                refs.append(open_turn(found))
            except UnknownMessage as error:
                # From a later version, for that version's workers. The others are checked
                # nevertheless.
                log.info("turn left to others: %s", error, extra=about(turn=found.turn))
        return refs


CANCELLED = encode_event(TurnEnded(state=TurnState.CANCELLED))
"""The end of a turn that was stopped before it had an agent."""
_ADRIFT = encode_event(declared_end(Case.CONVERSATION_LOST))
_OUT_OF_ATTEMPTS = encode_event(declared_end(Case.STARTS_SPENT))


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
