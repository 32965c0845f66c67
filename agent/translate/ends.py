"""Translates the end of a CLI's turn: every kind of error and reason that it knows, in one place.
Pure.

The CLI reports a stop reason of the model, the kind of an error, and why its loop stopped.
`STOP_REASONS` (`infra.wire.model.upstream`), `ERROR_KINDS` and `LOOP_ENDS` map each of them; a test
compares them with the lists in the bundled CLI.

The CLI reports an API error as a result "success" with `is_error` and a status. Its text names
hosts and gives advice about a program that the user does not have, so we use our own sentence for
the code. Only if the upstream found the request itself faulty, the user gets the upstream's words,
cleaned.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from infra.wire.endings import declared_end, interrupted_end
from infra.wire.errors import ErrorCode
from infra.wire.events import EndReason, TurnEnded, TurnError
from infra.wire.link import InterruptReason
from infra.wire.model.upstream import code_of, end_reason_of, upstream_error
from infra.wire.states import TurnState

ERROR_KINDS: Mapping[str, ErrorCode | EndReason | None] = {
    # The text so far is valid; only its end is missing.
    "max_output_tokens": EndReason.LENGTH,
    "billing_error": ErrorCode.INSUFFICIENT_QUOTA,
    "model_not_found": ErrorCode.MODEL_NOT_FOUND,
    "account_on_hold": ErrorCode.PERMISSION_DENIED,
    "verification_required": ErrorCode.PERMISSION_DENIED,
    "oauth_org_not_allowed": ErrorCode.PERMISSION_DENIED,
    "cloud_credential_error": ErrorCode.INVALID_KEY,
    # These say less than the status and the text.
    "authentication_failed": None,
    "rate_limit": None,
    "overloaded": None,
    "invalid_request": None,
    "server_error": None,
    "unknown": None,
}
"""How a turn ends by the kind of API error; None if the status decides."""

LOOP_ENDS: Mapping[str, ErrorCode | EndReason | None] = {
    "completed": None,
    "api_error": None,
    # Faulty or too large: the text tells which.
    "image_error": None,
    "max_turns": EndReason.LENGTH,
    "prompt_too_long": ErrorCode.CONTEXT_TOO_LONG,
    # No room is left, even after summarising the conversation.
    "blocking_limit": ErrorCode.CONTEXT_TOO_LONG,
    "rapid_refill_breaker": ErrorCode.CONTEXT_TOO_LONG,
    # The model's tool calls could not be parsed, twice.
    "malformed_tool_use_exhausted": ErrorCode.UPSTREAM_ERROR,
    # We never request these.
    "aborted_streaming": ErrorCode.AGENT_FAILED,
    "aborted_tools": ErrorCode.AGENT_FAILED,
    "model_error": ErrorCode.AGENT_FAILED,
    "turn_setup_failed": ErrorCode.AGENT_FAILED,
    "stop_hook_prevented": ErrorCode.AGENT_FAILED,
    "hook_stopped": ErrorCode.AGENT_FAILED,
    "tool_deferred": EndReason.CALLS,
    "tool_deferred_unavailable": ErrorCode.AGENT_FAILED,
    "background_requested": ErrorCode.AGENT_FAILED,
    "budget_exhausted": ErrorCode.AGENT_FAILED,
    "structured_output_retry_exhausted": ErrorCode.AGENT_FAILED,
}
"""How a turn ends by the reason why the CLI's loop stopped; None if the error decides."""

PAUSES = frozenset({"pause_turn", "compaction"})

_BY_KIND = {
    "authentication_failed": ErrorCode.INVALID_KEY,
    "rate_limit": ErrorCode.RATE_LIMITED,
    "overloaded": ErrorCode.OVERLOADED,
    "invalid_request": ErrorCode.INVALID_REQUEST,
}
"""For errors without a status. Kinds that say more than a status are in `ERROR_KINDS`."""

_PREFIX = re.compile(r"^API Error:\s*(?:\d{3}\s+)?", re.I)
"""The CLI's prefix for an error text of the service."""

_LOST = re.compile(r"connect|socket|network|timed? ?out|econn|fetch failed", re.I)


@dataclass(frozen=True)
class CliEnd:
    """What the CLI reported about a turn's end."""

    is_error: bool
    stop_reason: str | None = None
    loop_end: str | None = None
    is_api_error: bool = False
    """Whether it is an error of the model's service, not of the CLI."""
    status: int | None = None
    kind: str | None = None
    prose: str = ""
    was_refused: bool = False
    """Whether the model's safeguards stopped a message of the answer."""


def ending(told: CliEnd, interrupt: InterruptReason | None = None) -> TurnEnded:
    """The end of a turn. `interrupt`: the turn was asked to stop."""
    if not told.is_error:
        return _done(_finish(told))
    if told.loop_end == "max_turns":
        return _done(EndReason.LENGTH)
    if interrupt is not None:
        return interrupted_end(interrupt)
    if told.was_refused:
        return _done(EndReason.REFUSED)
    if told.stop_reason in PAUSES:
        # The CLI reports an error if the last output came from a tool of the service.
        return _done(end_reason_of(told.stop_reason))
    for end in (ERROR_KINDS.get(told.kind or ""), LOOP_ENDS.get(told.loop_end or "")):
        if isinstance(end, EndReason):
            return _done(end)
        if end is not None:
            return _failed(end, told.prose)
    if not told.is_api_error:
        return declared_end(ErrorCode.AGENT_FAILED)
    error = error_of(status=told.status, kind=told.kind, prose=told.prose)
    return TurnEnded(state=TurnState.FAILED, error=error)


def error_of(*, status: int | None, kind: str | None, prose: str) -> TurnError:
    """Our error for an API error of the CLI.

    `status` and `kind` are the SDK's classification, `prose` its text for people.
    """
    return upstream_error(_code_of(status, kind, prose), _PREFIX.sub("", prose))


def _finish(told: CliEnd) -> EndReason:
    """Something was withheld, although the model may have continued after it."""
    if told.was_refused:
        return EndReason.REFUSED
    if told.loop_end == "tool_deferred":
        return EndReason.CALLS
    return end_reason_of(told.stop_reason)


def _done(finish: EndReason) -> TurnEnded:
    return TurnEnded(state=TurnState.DONE, end_reason=finish)


def _failed(code: ErrorCode, prose: str) -> TurnEnded:
    if code is ErrorCode.AGENT_FAILED:
        return declared_end(code)
    return TurnEnded(state=TurnState.FAILED, error=upstream_error(code, prose))


def _code_of(status: int | None, kind: str | None, prose: str) -> ErrorCode:
    if status is not None:
        return code_of(status, prose)
    if _LOST.search(prose):
        return ErrorCode.UPSTREAM_UNREACHABLE
    return _BY_KIND.get(kind or "", ErrorCode.UPSTREAM_ERROR)
