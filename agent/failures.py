"""Why a turn failed, in the contract's codes and in words for the user. Pure.

The CLI tells an API error as a result "success" with `is_error` and a status, and its prose names
hosts and advises about a program the user does not have. So the words are ours, by the code; only a
request the upstream found faulty is told in the upstream's words, cleaned.
"""

from __future__ import annotations

import re

from infra.wire.errors import ErrorCode
from infra.wire.events import TurnEnded, TurnError
from infra.wire.link import InterruptReason
from infra.wire.states import TurnState
from infra.wire.upstream import code_of, upstream_error

_BY_KIND = {
    "authentication_failed": ErrorCode.INVALID_KEY,
    "rate_limit": ErrorCode.RATE_LIMITED,
    "overloaded": ErrorCode.OVERLOADED,
    "invalid_request": ErrorCode.INVALID_REQUEST,
}
"""Where there is no status. The kinds that say more than a status are in `agent.ends`."""
_WORDS = {
    ErrorCode.CONTAINER_FAILED: "The agent could not be started. Please try again.",
    ErrorCode.AGENT_FAILED: "The agent's process ended in the middle of the turn.",
    ErrorCode.OUT_OF_MEMORY: "The agent ran out of memory.",
}
_PREFIX = re.compile(r"^API Error:\s*(?:\d{3}\s+)?", re.I)
"""What the CLI puts before the words of the service."""

_LOST = re.compile(r"connect|socket|network|timed? ?out|econn|fetch failed", re.I)


def error_of(*, status: int | None, kind: str | None, prose: str) -> TurnError:
    """An API error of the CLI as ours.

    `status` and `kind` are what the SDK says of it, `prose` its text for people.
    """
    return upstream_error(_code_of(status, kind, prose), _PREFIX.sub("", prose))


def failed(code: ErrorCode, message: str | None = None) -> TurnEnded:
    """A turn that failed for that reason."""
    error = TurnError(code=code, message=message or _WORDS[code])
    return TurnEnded(state=TurnState.FAILED, error=error)


def interrupted(reason: InterruptReason) -> TurnEnded:
    """A turn that was stopped, and why."""
    match reason:
        case InterruptReason.CANCELLED:
            return TurnEnded(state=TurnState.CANCELLED)
        case InterruptReason.DEADLINE:
            return failed(ErrorCode.TURN_TIMED_OUT, "The turn took longer than it may.")
        case InterruptReason.SHUTDOWN:
            message = "The service was shut down in the middle of the turn."
            error = TurnError(code=ErrorCode.SHUTTING_DOWN, message=message)
            return TurnEnded(state=TurnState.INTERRUPTED, error=error)


def _code_of(status: int | None, kind: str | None, prose: str) -> ErrorCode:
    if status is not None:
        return code_of(status, prose)
    if _LOST.search(prose):
        return ErrorCode.UPSTREAM_UNREACHABLE
    return _BY_KIND.get(kind or "", ErrorCode.UPSTREAM_ERROR)
