"""Every error kind and every loop end of the CLI, as a client is told it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.translate.ends import ERROR_KINDS, LOOP_ENDS, PAUSES, CliEnd, ending
from infra.wire.errors import ErrorCode
from infra.wire.events import EndReason, TurnEnded
from infra.wire.link import InterruptReason
from infra.wire.states import TurnState

Told = ErrorCode | EndReason

LENGTH, FILTER = EndReason.LENGTH, EndReason.REFUSED
REFUSED = CliEnd(is_error=True, is_api_error=True, status=400, prose="bad block")

KINDS: dict[str, Told] = {
    "max_output_tokens": LENGTH,
    "billing_error": ErrorCode.INSUFFICIENT_QUOTA,
    "model_not_found": ErrorCode.MODEL_NOT_FOUND,
    "account_on_hold": ErrorCode.PERMISSION_DENIED,
    "verification_required": ErrorCode.PERMISSION_DENIED,
    "oauth_org_not_allowed": ErrorCode.PERMISSION_DENIED,
    "cloud_credential_error": ErrorCode.INVALID_KEY,
    "authentication_failed": ErrorCode.INVALID_KEY,
    "rate_limit": ErrorCode.RATE_LIMITED,
    "overloaded": ErrorCode.OVERLOADED,
    "invalid_request": ErrorCode.INVALID_REQUEST,
    "server_error": ErrorCode.UPSTREAM_ERROR,
    "unknown": ErrorCode.UPSTREAM_ERROR,
}
"""Where no status came with it."""

BY_STATUS = frozenset(
    (
        "authentication_failed",
        "rate_limit",
        "overloaded",
        "invalid_request",
        "server_error",
        "unknown",
    )
)
"""Kinds that say less than a status does."""

LOOPS: dict[str, Told] = {
    "completed": ErrorCode.INVALID_REQUEST,
    "api_error": ErrorCode.INVALID_REQUEST,
    "image_error": ErrorCode.INVALID_REQUEST,
    "max_turns": LENGTH,
    "prompt_too_long": ErrorCode.CONTEXT_TOO_LONG,
    "blocking_limit": ErrorCode.CONTEXT_TOO_LONG,
    "rapid_refill_breaker": ErrorCode.CONTEXT_TOO_LONG,
    "malformed_tool_use_exhausted": ErrorCode.UPSTREAM_ERROR,
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
"""With an error of the service whose status is 400."""

BY_ERROR = frozenset(("completed", "api_error", "image_error"))
"""Loop ends that say nothing of their own."""


def told(ended: TurnEnded) -> Told:
    """The error's code, or the reason of an end that is none."""
    if ended.error is None:
        assert ended.state is TurnState.DONE
        return ended.end_reason
    assert ended.state is TurnState.FAILED
    return ended.error.code


def test_the_cases_are_all_there_are() -> None:
    assert KINDS.keys() == ERROR_KINDS.keys()
    assert LOOPS.keys() == LOOP_ENDS.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_kind_is_told(kind: str) -> None:
    end = CliEnd(is_error=True, is_api_error=True, kind=kind)
    assert told(ending(end)) == KINDS[kind]
    by_status = ErrorCode.OVERLOADED if kind in BY_STATUS else KINDS[kind]
    assert told(ending(replace(end, status=529))) == by_status


@pytest.mark.parametrize("loop_end", LOOPS)
def test_a_loop_end_is_told(loop_end: str) -> None:
    end = replace(REFUSED, loop_end=loop_end)
    assert told(ending(end)) == LOOPS[loop_end]
    of_the_cli = ErrorCode.AGENT_FAILED if loop_end in BY_ERROR else LOOPS[loop_end]
    assert told(ending(replace(end, is_api_error=False))) == of_the_cli
    well = EndReason.CALLS if loop_end == "tool_deferred" else EndReason.DONE
    assert told(ending(replace(end, is_error=False))) == well


@pytest.mark.parametrize("loop_end", LOOPS)
def test_a_turn_that_was_stopped_ends_for_that_reason(loop_end: str) -> None:
    ended = ending(replace(REFUSED, loop_end=loop_end), InterruptReason.CANCELLED)
    at_its_limit = loop_end == "max_turns"
    assert ended.state is (TurnState.DONE if at_its_limit else TurnState.CANCELLED)


def test_the_kind_says_more_than_the_loop_does() -> None:
    end = replace(REFUSED, kind="billing_error", loop_end="model_error")
    assert told(ending(end)) == ErrorCode.INSUFFICIENT_QUOTA


def test_what_was_said_stands_though_the_cli_calls_it_an_error() -> None:
    assert told(ending(replace(REFUSED, was_refused=True))) == FILTER
    for pause in PAUSES:
        assert told(ending(replace(REFUSED, stop_reason=pause, loop_end="aborted_tools"))) == LENGTH


def test_a_picture_that_is_too_large_is_no_conversation_that_is() -> None:
    end = replace(REFUSED, kind="invalid_request", loop_end="image_error")
    assert told(ending(replace(end, prose="The image is too large"))) == ErrorCode.INVALID_REQUEST
    assert told(ending(replace(end, prose="Prompt is too long"))) == ErrorCode.CONTEXT_TOO_LONG
