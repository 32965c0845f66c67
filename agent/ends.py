"""How a turn of the CLI ended, as ours: every error kind and reason it knows, in one place. Pure.

What the CLI tells of an end is a stop reason of the model, the kind of an error, and why its loop
stopped. `STOP_REASONS` (`infra.wire.upstream`), `ERROR_KINDS` and `LOOP_ENDS` say what each is for
a client; a test compares them with the lists in the bundled CLI. The words for people are in
`agent.failures`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agent.failures import error_of, failed, interrupted
from infra.wire.errors import ErrorCode
from infra.wire.events import EndReason, TurnEnded
from infra.wire.link import InterruptReason
from infra.wire.states import TurnState
from infra.wire.upstream import end_reason_of, upstream_error

ERROR_KINDS: Mapping[str, ErrorCode | EndReason | None] = {
    # What was said stands: only its end is missing.
    "max_output_tokens": EndReason.LENGTH,
    "billing_error": ErrorCode.INSUFFICIENT_QUOTA,
    "model_not_found": ErrorCode.MODEL_NOT_FOUND,
    "account_on_hold": ErrorCode.PERMISSION_DENIED,
    "verification_required": ErrorCode.PERMISSION_DENIED,
    "oauth_org_not_allowed": ErrorCode.PERMISSION_DENIED,
    "cloud_credential_error": ErrorCode.INVALID_KEY,
    # These say less than the status and the prose do.
    "authentication_failed": None,
    "rate_limit": None,
    "overloaded": None,
    "invalid_request": None,
    "server_error": None,
    "unknown": None,
}
"""The kind of an API error -> how the turn ends; None: its status decides."""

LOOP_ENDS: Mapping[str, ErrorCode | EndReason | None] = {
    "completed": None,
    "api_error": None,
    # Faulty, or too large: the prose tells.
    "image_error": None,
    "max_turns": EndReason.LENGTH,
    "prompt_too_long": ErrorCode.CONTEXT_TOO_LONG,
    # No room is left, and summarising the conversation made none.
    "blocking_limit": ErrorCode.CONTEXT_TOO_LONG,
    "rapid_refill_breaker": ErrorCode.CONTEXT_TOO_LONG,
    # The model's tool calls could not be read, twice.
    "malformed_tool_use_exhausted": ErrorCode.UPSTREAM_ERROR,
    # Nothing of ours asks for these.
    "aborted_streaming": ErrorCode.AGENT_FAILED,
    "aborted_tools": ErrorCode.AGENT_FAILED,
    "model_error": ErrorCode.AGENT_FAILED,
    "turn_setup_failed": ErrorCode.AGENT_FAILED,
    "stop_hook_prevented": ErrorCode.AGENT_FAILED,
    "hook_stopped": ErrorCode.AGENT_FAILED,
    "tool_deferred": ErrorCode.AGENT_FAILED,
    "tool_deferred_unavailable": ErrorCode.AGENT_FAILED,
    "background_requested": ErrorCode.AGENT_FAILED,
    "budget_exhausted": ErrorCode.AGENT_FAILED,
    "structured_output_retry_exhausted": ErrorCode.AGENT_FAILED,
}
"""Why the CLI's loop stopped with an error -> how the turn ends; None: the error decides."""

PAUSES = frozenset({"pause_turn", "compaction"})
_FAILED_MIDWAY = "The agent failed in the middle of the turn."


@dataclass(frozen=True)
class CliEnd:
    """What the CLI told of a turn's end."""

    is_error: bool
    stop_reason: str | None = None
    loop_end: str | None = None
    is_api_error: bool = False
    """An error of the model's service, not of the CLI."""
    status: int | None = None
    kind: str | None = None
    prose: str = ""
    was_refused: bool = False
    """A message of the answer was stopped by the model's safeguards."""


def ending(told: CliEnd, interrupt: InterruptReason | None = None) -> TurnEnded:
    """The end of a turn; `interrupt` says that it was asked to stop."""
    if not told.is_error:
        return _done(_finish(told))
    if told.loop_end == "max_turns":
        return _done(EndReason.LENGTH)
    if interrupt is not None:
        return interrupted(interrupt)
    if told.was_refused:
        return _done(EndReason.REFUSED)
    if told.stop_reason in PAUSES:
        # An error to the CLI where the service's own tool was the last to speak.
        return _done(end_reason_of(told.stop_reason))
    for end in (ERROR_KINDS.get(told.kind or ""), LOOP_ENDS.get(told.loop_end or "")):
        if isinstance(end, EndReason):
            return _done(end)
        if end is not None:
            return _failed(end, told.prose)
    if not told.is_api_error:
        return failed(ErrorCode.AGENT_FAILED, _FAILED_MIDWAY)
    error = error_of(status=told.status, kind=told.kind, prose=told.prose)
    return TurnEnded(state=TurnState.FAILED, error=error)


def _finish(told: CliEnd) -> EndReason:
    """Something was withheld, though the model may have gone on after it."""
    if told.was_refused:
        return EndReason.REFUSED
    return end_reason_of(told.stop_reason)


def _done(finish: EndReason) -> TurnEnded:
    return TurnEnded(state=TurnState.DONE, end_reason=finish)


def _failed(code: ErrorCode, prose: str) -> TurnEnded:
    if code is ErrorCode.AGENT_FAILED:
        return failed(code, _FAILED_MIDWAY)
    return TurnEnded(state=TurnState.FAILED, error=upstream_error(code, prose))
