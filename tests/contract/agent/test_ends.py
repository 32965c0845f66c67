"""How turns end: every stop reason and error of the model's service, through the real CLI.

One agent and one conversation for all: each end leaves it good for the next turn.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from agent.translate.ends import ERROR_KINDS, LOOP_ENDS
from infra.wire.errors import ErrorCode
from infra.wire.events import EndReason, Notice
from infra.wire.model.upstream import STOP_REASONS
from infra.wire.states import TurnState
from tests.fakes.link_client import end_of, text_of
from tests.fakes.local_agent import LocalAgent, ask
from tests.parts import need

pytestmark = [pytest.mark.sdk, pytest.mark.timeout(120)]


def refused(status: int, kind: str, message: str, **more: object) -> str:
    """The script of a refusal that no retry mends."""
    error = {"type": kind, "message": message, **more}
    headers = {"x-should-retry": "false"}
    return "message " + json.dumps({"status": status, "error": error, "headers": headers})


LENGTH, FILTER, STOP = EndReason.LENGTH, EndReason.REFUSED, EndReason.DONE


@pytest.mark.parametrize(
    ("reason", "finish", "answer"),
    [
        ("end_turn", STOP, "some words"),
        ("stop_sequence", STOP, "some words"),
        ("max_tokens", LENGTH, "some words" + " some words" * 3),
        ("model_context_window_exceeded", LENGTH, "some words" + " some words" * 3),
        ("refusal", FILTER, "some words\n\n some words"),
        ("pause_turn", LENGTH, "some words"),
        ("compaction", LENGTH, "some words"),
        ("one_of_next_year", STOP, "some words"),
    ],
)
async def test_a_stop_reason_is_an_end_with_what_was_said(
    local: LocalAgent, reason: str, finish: EndReason, answer: str
) -> None:
    """The CLI asks three times for the rest of a cut answer, and once more after a refusal."""
    step = f"stopreason {reason} some words"
    events = await ask(local, " then ".join([step, *[step.replace("some", " some")] * 5]))
    ended = end_of(events)
    assert (ended.state, ended.error) == (TurnState.DONE, None)
    assert ended.end_reason is finish
    assert re.sub(r" +", " ", text_of(events)) == answer
    assert not re.search(r"API Error|[Cc]lassifier|Sonnet|token maximum", text_of(events))


async def test_a_tool_call_that_never_came_is_asked_for_again(local: LocalAgent) -> None:
    events = await ask(local, "stopreason tool_use hm")
    assert end_of(events).state is TurnState.DONE
    assert end_of(events).end_reason is STOP


@pytest.mark.parametrize("reason", ["refusal", "max_tokens", "model_context_window_exceeded"])
async def test_an_end_without_a_word_is_one_all_the_same(local: LocalAgent, reason: str) -> None:
    step = f"stopreason {reason}"
    events = await ask(local, " then ".join([step] * 6))
    ended = end_of(events)
    assert (text_of(events), ended.state) == ("", TurnState.DONE)
    assert ended.end_reason is (FILTER if reason == "refusal" else LENGTH)


async def test_a_refusal_that_the_model_talks_about_says_that_something_was_withheld(
    local: LocalAgent,
) -> None:
    events = await ask(local, "stopreason refusal I will then echo no, I will not")
    assert text_of(events) == "I will\n\nno, I will not"
    assert end_of(events).end_reason is FILTER
    assert [e.text for e in events if isinstance(e, Notice)] == [
        "The model's safeguards stopped the answer; it is asked to go on without what they stopped."
    ]


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("error 400 no-retry", ErrorCode.CONTEXT_TOO_LONG),
        (refused(400, "invalid_request_error", "bad block"), ErrorCode.INVALID_REQUEST),
        (
            refused(400, "invalid_request_error", "Your credit balance is too low to access it"),
            ErrorCode.INSUFFICIENT_QUOTA,
        ),
        ("error 401 no-retry", ErrorCode.INVALID_KEY),
        (refused(402, "billing_error", "no credit"), ErrorCode.INSUFFICIENT_QUOTA),
        ("error 403 no-retry", ErrorCode.PERMISSION_DENIED),
        (
            refused(
                403,
                "permission_error",
                "Verify first",
                details={"error_code": "verification_required"},
            ),
            ErrorCode.PERMISSION_DENIED,
        ),
        (
            refused(
                403,
                "permission_error",
                "OAuth authentication is currently not allowed for this organization",
            ),
            ErrorCode.PERMISSION_DENIED,
        ),
        ("error 404 no-retry", ErrorCode.MODEL_NOT_FOUND),
        ("error 413 no-retry", ErrorCode.CONTEXT_TOO_LONG),
        (refused(418, "teapot", "short and stout"), ErrorCode.INVALID_REQUEST),
        ("error 429 no-retry", ErrorCode.RATE_LIMITED),
        ("error 500 no-retry", ErrorCode.UPSTREAM_ERROR),
        (refused(503, "overloaded_error", "busy"), ErrorCode.OVERLOADED),
        (refused(504, "timeout_error", "slow"), ErrorCode.UPSTREAM_UNREACHABLE),
        ("error 529 no-retry", ErrorCode.OVERLOADED),
    ],
)
async def test_an_error_of_the_service_is_a_code_and_our_words(
    local: LocalAgent, script: str, code: ErrorCode
) -> None:
    events = await ask(local, script)
    ended = end_of(events)
    assert ended.state is TurnState.FAILED
    assert ended.error is not None
    assert ended.error.code is code
    assert not re.search(r"agcluster|http|API Error|/login|claude", ended.error.message)
    assert text_of(events) == ""


async def test_a_pause_after_a_tool_of_the_service_is_no_failure_of_the_agent(
    local: LocalAgent,
) -> None:
    """The CLI calls it an error, and the container would have been given up for it."""
    search = {"type": "server_tool_use", "id": "srvtoolu_9", "name": "web_search", "input": {}}
    found = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_9", "content": []}
    said = {"say": ["I search.", {"raw": search}, {"raw": found}], "stop": "pause_turn"}
    events = await ask(local, "message " + json.dumps(said))
    ended = end_of(events)
    assert (ended.state, ended.end_reason, ended.error) == (TurnState.DONE, LENGTH, None)
    assert text_of(events) == "I search."
    assert any("paused" in e.text for e in events if isinstance(e, Notice))
    assert text_of(await ask(local, "echo rest")) == "rest"


async def test_the_limit_of_model_calls_is_length(local: LocalAgent) -> None:
    events = await ask(local, "tool bash true then echo x", tools=("Bash",), max_turns=1)
    assert end_of(events).end_reason is LENGTH


def test_the_tables_hold_what_the_bundled_cli_knows() -> None:
    """A newer CLI with another kind, or another reason, fails here and is looked at."""
    need("sdk")
    lists = lists_of_the_cli(
        "end_turn", "authentication_failed", "blocking_limit", "budget_exhausted"
    )
    assert STOP_REASONS.keys() == longest(lists, "model_context_window_exceeded")
    assert ERROR_KINDS.keys() == longest(lists, "cloud_credential_error")
    assert LOOP_ENDS.keys() == (
        longest(lists, "malformed_tool_use_exhausted") | longest(lists, "tool_deferred_unavailable")
    )


def lists_of_the_cli(*firsts: str) -> list[set[str]]:
    """The lists of words in the CLI's source that begin with one of these."""
    import claude_agent_sdk

    program = Path(claude_agent_sdk.__file__).parent / "_bundled" / "claude"
    pattern = r'\["(' + "|".join(firsts) + r')"(,"[a-z_]+")+\]'
    command = ["grep", "-aoE", pattern, str(program)]
    found = subprocess.run(command, env={"LC_ALL": "C"}, capture_output=True, check=True)
    return [set(json.loads(line)) for line in found.stdout.splitlines()]


def longest(lists: list[set[str]], member: str) -> set[str]:
    return max((words for words in lists if member in words), key=len)
