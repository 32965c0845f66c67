"""What a submit is made of: the call of its script, its keys, and what its answer means."""

from __future__ import annotations

from infra.runtime.contents import Contents
from infra.store.access.limits import SubmitLimits, refusal
from infra.store.bounds import LISTED_TURNS_MAX
from infra.store.conversations.leases import LEASE_S, SURE_LEASE_S
from infra.store.keys import Keys
from infra.store.turns.calls import SubmitAnswer, SubmitCall
from infra.store.turns.records import CallerOver, CallsTooMany, NewTurn, Submitted, options_named
from infra.wire.control import TurnWaits
from infra.wire.history.decision import GO_ON_DIGEST
from infra.wire.turns import TurnRequest

OPEN_TTL_S = 86400.0
"""Seconds that an open turn and a FIFO are kept."""
CLAIMED_LOOK_AFTER_S = LEASE_S - 2.0
"""Seconds until a sweep looks at a turn that was begun."""


def blinded(request: TurnRequest, contents: Contents) -> TurnRequest:
    """The request with keyed digests in place of the digests of what was said.

    The sentence that continues an answer is our own: it tells nothing, and is looked for later.
    """
    sent = tuple(
        digest if digest == GO_ON_DIGEST else contents.blind(digest) for digest in request.sent
    )
    tails = tuple(map(contents.blind, request.tails))
    return request.model_copy(update={"sent": sent, "tails": tails})


def submit_call(
    new: NewTurn,
    written: str | bytes,
    *,
    digest: str,
    limits: SubmitLimits,
    retention_s: float,
) -> SubmitCall:
    """`written` is the request as it is kept, `digest` what makes a repeat the same turn."""
    request = new.request
    c, turn = request.conversation, request.turn
    return SubmitCall(
        conversation=c,
        turn=turn,
        tenant=request.tenant,
        label=new.label,
        request=written,
        replica=new.replica,
        model=new.asked_model or request.model,
        sealed_key=new.sealed_key,
        key_expires_ms=new.key_expires_ms,
        on_disconnect=new.on_disconnect,
        lane=request.lane,
        options=options_named(request.options),
        digest=digest,
        repeats=new.repeats,
        supersedes=new.supersedes,
        reader=new.reader,
        is_thin=request.is_thin and not request.history,
        caller=new.called_by.turn if new.called_by else None,
        granted_tokens=new.called_by.granted_tokens if new.called_by else 0,
        called_at_once_max=new.called_by.at_once_max if new.called_by else 0,
        called_max=new.called_by.most if new.called_by else 0,
        order=TurnWaits(conversation=c, turn=turn).encode(),
        look_after_ms=_ms(CLAIMED_LOOK_AFTER_S),
        lease_sure_ms=_ms(SURE_LEASE_S),
        open_ttl_ms=_ms(OPEN_TTL_S + request.deadline_s),
        retention_ms=_ms(retention_s),
        todo_ttl_ms=_ms(OPEN_TTL_S),
        idle_timeout_ms=_ms(request.idle_timeout_s),
        listed_max=LISTED_TURNS_MAX,
        **vars(limits),
    )


def submit_keys(keys: Keys, request: TurnRequest, digest: str) -> dict[str, str]:
    """Those that the script lists; that of a repeat only where there is a digest."""
    c, turn, tenant = request.conversation, request.turn, request.tenant
    touched = {
        "conversation": keys.conversation(c),
        "todo": keys.todo(c),
        "turn": keys.turn(turn),
        "turn_request": keys.turn_request(turn),
        "turns_open": keys.turns_open(),
        "idle": keys.idle(),
        "tenant_running": keys.tenant_running(tenant),
    }
    if digest:
        touched["idempotency"] = keys.idempotency(tenant, digest)
    return touched


def submitted(answer: SubmitAnswer) -> Submitted:
    """What the script did. Raises `RequestRefused` if a limit is reached, `CallerOver` or
    `CallsTooMany`."""
    match answer.outcome:
        case "caller_over":
            raise CallerOver("the calling turn is over")
        case "called":
            raise CallsTooMany(f"the turn has called {answer.turns} others")
        case "created" | "joined" | "repeated":
            return Submitted(
                turn=answer.turn,
                created=answer.outcome == "created",
                owner=answer.owner,
                position=answer.ahead,
                is_told=answer.told > 0,
                is_joined=answer.outcome == "joined",
            )
        case bound:
            raise refusal(
                bound,
                turns=answer.turns,
                oldest_ms=answer.oldest_ms,
                day_left_ms=answer.day_left_ms,
                held_bytes=answer.held_bytes,
            )


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
