"""Why a turn failed, in the contract's codes and in words for the user. Pure.

The CLI tells an API error as a result "success" with `is_error` and a status, and its prose names
hosts and advises about a program the user does not have. So the words are ours, by the code; only a
request the upstream found faulty is told in the upstream's words, cleaned.
"""

from __future__ import annotations

import re

from agent.tools import clean_line
from infra.wire.errors import ErrorCode
from infra.wire.events import TurnEnded, TurnError
from infra.wire.link import InterruptReason
from infra.wire.states import TurnState

_BY_STATUS = {
    400: ErrorCode.INVALID_REQUEST,
    401: ErrorCode.INVALID_KEY,
    402: ErrorCode.INSUFFICIENT_QUOTA,
    403: ErrorCode.PERMISSION_DENIED,
    404: ErrorCode.MODEL_NOT_FOUND,
    408: ErrorCode.UPSTREAM_UNREACHABLE,
    413: ErrorCode.CONTEXT_TOO_LONG,
    429: ErrorCode.RATE_LIMITED,
    502: ErrorCode.UPSTREAM_UNREACHABLE,
    503: ErrorCode.OVERLOADED,
    504: ErrorCode.UPSTREAM_UNREACHABLE,
    529: ErrorCode.OVERLOADED,
}
_BY_KIND = {
    "authentication_failed": ErrorCode.INVALID_KEY,
    "billing_error": ErrorCode.INSUFFICIENT_QUOTA,
    "model_not_found": ErrorCode.MODEL_NOT_FOUND,
    "rate_limit": ErrorCode.RATE_LIMITED,
    "overloaded": ErrorCode.OVERLOADED,
    "invalid_request": ErrorCode.INVALID_REQUEST,
    "server_error": ErrorCode.UPSTREAM_ERROR,
}
_WORDS = {
    ErrorCode.INVALID_KEY: "The model's service refused the API key.",
    ErrorCode.INSUFFICIENT_QUOTA: "The account behind the API key has no credit left.",
    ErrorCode.PERMISSION_DENIED: "The API key may not use what this turn asked for.",
    ErrorCode.MODEL_NOT_FOUND: "The model does not exist, or the API key has no access to it.",
    ErrorCode.CONTEXT_TOO_LONG: "The conversation is too long for the model.",
    ErrorCode.RATE_LIMITED: "The API key's rate limit is reached. Try again later.",
    ErrorCode.OVERLOADED: "The model's service is overloaded. Try again later.",
    ErrorCode.UPSTREAM_UNREACHABLE: "The model's service could not be reached.",
    ErrorCode.UPSTREAM_ERROR: "The model's service failed.",
    ErrorCode.INVALID_REQUEST: "The model's service refused the request.",
    ErrorCode.AGENT_FAILED: "The agent's process ended in the middle of the turn.",
    ErrorCode.OUT_OF_MEMORY: "The agent ran out of memory.",
}
_LONG = re.compile(r"prompt is too long|too long|too large|context (?:window|length)", re.I)
_LOST = re.compile(r"connect|socket|network|timed? ?out|econn|fetch failed", re.I)
_PLACES = re.compile(r"https?://\S+|(?<![\w/])/(?:[\w.\-]+/)+[\w.\-]*|\b[\w\-]+\.agcluster\b")
_DETAIL_MAX_CHARS = 300


def error_of(*, status: int | None, kind: str | None, prose: str) -> TurnError:
    """An API error of the CLI as ours.

    `status` and `kind` are what the SDK says of it, `prose` its text for people.
    """
    code = _code_of(status, kind, prose)
    message = _WORDS[code]
    if code is ErrorCode.INVALID_REQUEST and (detail := _without_places(prose)):
        message = f"{message} {detail}"
    return TurnError(code=code, message=message)


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
    if status in (400, 413) and _LONG.search(prose):
        return ErrorCode.CONTEXT_TOO_LONG
    if status is not None:
        default = ErrorCode.UPSTREAM_ERROR if status >= 500 else ErrorCode.INVALID_REQUEST
        return _BY_STATUS.get(status, default)
    if _LOST.search(prose):
        return ErrorCode.UPSTREAM_UNREACHABLE
    return _BY_KIND.get(kind or "", ErrorCode.UPSTREAM_ERROR)


def _without_places(prose: str) -> str:
    return clean_line(_PLACES.sub("…", prose), max_chars=_DETAIL_MAX_CHARS)
