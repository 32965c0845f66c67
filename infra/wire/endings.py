"""End events that the agent, its worker or the store declares when a turn cannot continue."""

from __future__ import annotations

from infra.wire.errors import ErrorCode
from infra.wire.events import EndReason, TurnEnded, TurnError
from infra.wire.gateway import UpstreamHealth
from infra.wire.link import InterruptReason
from infra.wire.model.upstream_cause import UpstreamCause
from infra.wire.states import TurnState
from infra.wire.text.words import SENTENCES, WHY_AWAY, Case


def declared_end(
    why: ErrorCode | Case,
    *,
    state: TurnState = TurnState.FAILED,
    retry_after_s: float | None = None,
    **figures: object,
) -> TurnEnded:
    """The end of a turn that failed for this reason, with the reason's sentence."""
    code, words = (why.code, why.sentence) if isinstance(why, Case) else (why, SENTENCES[why])
    words = words.format(**figures) if figures else words
    error = TurnError(code=code, message=words, retry_after_s=retry_after_s)
    return TurnEnded(state=state, error=error)


def away_end(away: UpstreamHealth) -> TurnEnded:
    """The end of a turn for which the model's service does not answer, with host and cause."""
    fault = WHY_AWAY[away.cause or UpstreamCause.BROKEN]
    return declared_end(Case.UPSTREAM_AWAY, host=away.host, fault=fault)


def interrupted_end(reason: InterruptReason) -> TurnEnded:
    """The end of a turn that we stopped."""
    match reason:
        case InterruptReason.CANCELLED:
            return TurnEnded(state=TurnState.CANCELLED)
        case InterruptReason.DEADLINE:
            return declared_end(ErrorCode.TURN_TIMED_OUT)
        case InterruptReason.SHUTDOWN:
            return declared_end(ErrorCode.SHUTTING_DOWN, state=TurnState.INTERRUPTED)
        case InterruptReason.STOP:
            return TurnEnded(state=TurnState.DONE)
        case InterruptReason.LENGTH:
            return TurnEnded(state=TurnState.DONE, end_reason=EndReason.LENGTH)
