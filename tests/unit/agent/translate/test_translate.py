"""What the SDK says becomes our events: each word once, each tool with its line, one end."""

from __future__ import annotations

import pytest
from claude_agent_sdk import (
    AssistantMessage,
    Message,
    SystemMessage,
    TextBlock,
    ThinkingBlock,
    UserMessage,
)

from agent.translate.translator import Translator
from agent.translate.voice import RULE
from infra.wire.errors import ErrorCode
from infra.wire.events import (
    EndReason,
    Event,
    Notice,
    TextDelta,
    ThinkingDelta,
    ToolCall,
    ToolResult,
    TurnEnded,
    TurnStarted,
)
from infra.wire.link import InterruptReason
from infra.wire.states import TurnState
from tests.fakes.link_client import end_of, text_of
from tests.unit.agent.recordings import prompt_of, recorded, streamed, translate


def thoughts(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, ThinkingDelta))


def finished(id: str, text: str) -> AssistantMessage:
    return AssistantMessage(content=[TextBlock(text)], model="claude", message_id=id)


def test_a_plain_turn_is_started_told_piece_by_piece_and_ended() -> None:
    events = translate(recorded("plain"))
    assert isinstance(events[0], TurnStarted)
    assert [e.text for e in events if isinstance(e, TextDelta)] == ["1 ", "2 ", "3 ", "4 ", "5 "]
    ended = end_of(events)
    assert ended.state is TurnState.DONE
    assert ended.end_reason is EndReason.DONE
    assert ended.usage.input_tokens > 0
    assert ended.usage.output_tokens == 5
    assert ended.checkpoint


def test_thinking_is_not_text() -> None:
    events = translate(recorded("thinking"))
    assert thoughts(events) == "I wonder about this"
    assert text_of(events) == "The answer is 42"


def test_tools_are_told_with_their_outcome_and_texts_are_paragraphs() -> None:
    events = translate(recorded("tools"))
    assert [e.summary for e in events if isinstance(e, ToolCall | ToolResult)] == [
        "echo one; echo two",
        "ok, 2 lines",
        "a.txt, 1 line",
        "ok",
        "a.txt",
        "1 line",
        "ls /nowhere",
        "exit code 2: ls: cannot access '/nowhere': No such file or directory",
    ]
    assert text_of(events) == "Let me look.\n\nAll done"


def test_parallel_calls_and_results_keep_their_ids() -> None:
    events = translate(recorded("parallel"))
    calls = [e.id for e in events if isinstance(e, ToolCall)]
    results = [e for e in events if isinstance(e, ToolResult)]
    assert sorted(calls) == sorted(e.id for e in results)
    assert {e.name for e in results} == {"Bash"}


def test_a_sub_agents_calls_carry_its_call_as_parent() -> None:
    events = translate(recorded("subagent"))
    outer, inner = (e for e in events if isinstance(e, ToolCall))
    assert (outer.name, outer.parent) == ("Agent", None)
    assert (inner.name, inner.parent) == ("Bash", outer.id)
    assert text_of(events) == "It has finished"


def test_todos_are_one_line() -> None:
    (call,) = (e for e in translate(recorded("todo")) if isinstance(e, ToolCall))
    assert call.summary == "0 of 1 done"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("midstream_error_always", "w0 w1 w2 w3 w4 w5 w6 w7 w8 "),
        ("drop_always", "w0 w1 w2 w3 w4 w5 w6 w7 "),
        ("midstream_error", "w0 w1 w2 w3 " + RULE + "recovered after 1 errors"),
        ("retry_then_ok", "recovered after 1 errors"),
    ],
)
def test_a_broken_stream_neither_loses_nor_doubles_text(name: str, text: str) -> None:
    events = translate(recorded(name))
    assert text_of(events) == text
    assert end_of(events).state is TurnState.DONE


def test_a_streamed_repetition_is_swallowed_and_its_rest_told() -> None:
    events = translate(
        streamed("m1", ["one ", "two "], stop=None) + streamed("m2", ["on", "e two th", "ree"])
    )
    assert [e.text for e in events if isinstance(e, TextDelta)] == ["one ", "two ", "th", "ree"]


def test_a_stream_that_breaks_twice_is_told_once() -> None:
    events = translate(
        streamed("m1", ["one ", "two ", "three "], stop=None)
        + streamed("m2", ["one "], stop=None)
        + streamed("m3", ["one ", "two ", "three ", "four"])
    )
    assert text_of(events) == "one two three four"


def test_a_stream_that_breaks_further_on_the_second_time_is_told_once() -> None:
    events = translate(
        streamed("m1", ["one "], stop=None)
        + streamed("m2", ["one ", "two "], stop=None)
        + streamed("m3", ["one ", "two ", "three"])
    )
    assert text_of(events) == "one two three"


def test_a_repetition_that_turns_away_is_told_whole_after_a_rule() -> None:
    events = translate(
        streamed("m1", ["one ", "two "], stop=None) + streamed("m2", ["one ", "other ", "way"])
    )
    assert text_of(events) == "one two " + RULE + "one other way"


def test_a_repetition_that_turned_away_and_broke_is_taken_up_again() -> None:
    events = translate(
        streamed("m1", ["one "], stop=None)
        + streamed("m2", ["other "], stop=None)
        + streamed("m3", ["other ", "way"])
    )
    assert text_of(events) == "one " + RULE + "other way"


def test_a_repetition_that_is_shorter_is_told_whole_after_a_rule() -> None:
    messages: list[Message] = [
        *streamed("m1", ["one ", "two "], stop=None),
        *streamed("m2", ["one "]),
        *streamed("m3", ["next"]),
    ]
    assert text_of(translate(messages)) == "one two " + RULE + "one \n\nnext"


def test_broken_thinking_is_told_once_too() -> None:
    events = translate(
        streamed("m1", ["so ", "it "], stop=None, kind="thinking")
        + streamed("m2", ["so ", "it ", "is"], kind="thinking")
    )
    assert thoughts(events) == "so it is"


def test_a_finished_message_adds_what_its_stream_left_out() -> None:
    messages: list[Message] = [*streamed("m1", ["one "]), finished("m1", "one two")]
    assert text_of(translate(messages)) == "one two"


def test_a_finished_message_that_says_otherwise_is_ruled_off() -> None:
    messages: list[Message] = [*streamed("m1", ["one "]), finished("m1", "other")]
    assert text_of(translate(messages)) == "one " + RULE + "other"


def test_a_message_that_was_never_streamed_is_told_whole() -> None:
    message = AssistantMessage(
        content=[ThinkingBlock("hm", "sig"), TextBlock("one "), TextBlock("two")],
        model="claude",
        message_id="m1",
    )
    events = translate([message])
    assert (thoughts(events), text_of(events)) == ("hm", "one two")


def test_an_answer_cut_for_length_goes_on_in_the_same_sentence() -> None:
    assert text_of(translate(recorded("maxtokens"))) == "one twook"


def test_an_answer_stopped_by_a_classifier_says_so() -> None:
    events = translate(recorded("refuse"))
    assert any("safeguards" in e.text for e in events if isinstance(e, Notice))
    assert text_of(events) == "no\n\nok"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("error_400", ErrorCode.CONTEXT_TOO_LONG),
        ("error_401", ErrorCode.INVALID_KEY),
        ("error_403", ErrorCode.PERMISSION_DENIED),
        ("error_404", ErrorCode.MODEL_NOT_FOUND),
        ("error_413", ErrorCode.CONTEXT_TOO_LONG),
        ("error_429", ErrorCode.RATE_LIMITED),
        ("error_500", ErrorCode.UPSTREAM_ERROR),
        ("error_529", ErrorCode.OVERLOADED),
        ("unreachable", ErrorCode.UPSTREAM_UNREACHABLE),
    ],
)
def test_an_api_error_is_an_ending_and_its_prose_is_no_text(name: str, code: ErrorCode) -> None:
    events = translate(recorded(name))
    assert not [e for e in events if isinstance(e, TextDelta)]
    ended = end_of(events)
    assert ended.state is TurnState.FAILED
    assert ended.error is not None
    assert ended.error.code is code
    assert "agcluster" not in ended.error.message


@pytest.mark.parametrize("name", ["interrupt_stream", "interrupt_tool"])
@pytest.mark.parametrize(
    ("reason", "state"),
    [
        (InterruptReason.CANCELLED, TurnState.CANCELLED),
        (InterruptReason.DEADLINE, TurnState.FAILED),
        (InterruptReason.SHUTDOWN, TurnState.INTERRUPTED),
    ],
)
def test_an_interrupted_turn_ends_by_the_reason(
    name: str, reason: InterruptReason, state: TurnState
) -> None:
    events = translate(recorded(name), interrupt=reason)
    assert end_of(events).state is state
    assert end_of(events).usage.input_tokens > 0


def test_an_interrupted_turn_does_not_tell_what_the_cli_noted_for_itself() -> None:
    events = translate(recorded("interrupt_stream"), interrupt=InterruptReason.CANCELLED)
    assert "interrupted by user" not in text_of(events)


def test_an_abort_nobody_asked_for_is_a_failure() -> None:
    error = end_of(translate(recorded("interrupt_stream"))).error
    assert error is not None
    assert error.code is ErrorCode.AGENT_FAILED


def test_a_turn_that_was_done_before_the_interrupt_is_done() -> None:
    events = translate(recorded("plain"), interrupt=InterruptReason.CANCELLED)
    assert end_of(events).state is TurnState.DONE


def test_the_limit_of_model_calls_is_length_and_told() -> None:
    events = translate(recorded("max_turns"))
    assert end_of(events).state is TurnState.DONE
    assert end_of(events).end_reason is EndReason.LENGTH
    assert any("limit" in e.text for e in events if isinstance(e, Notice))


def test_a_changed_model_is_not_told_as_text() -> None:
    messages = recorded("set_model")
    second = next(i for i, m in enumerate(messages) if isinstance(m, UserMessage))
    events = translate(messages[second:], prompt=prompt_of(messages[second:]))
    assert text_of(events) == "claude-haiku-4-5-20251001"


def test_the_result_of_an_earlier_prompt_ends_nothing() -> None:
    events = translate(recorded("plain"), prompt="another")
    assert not [e for e in events if isinstance(e, TurnEnded)]


def test_retries_and_compaction_are_noticed() -> None:
    translator = Translator("p")
    retry = {"error_status": None, "attempt": 1, "max_retries": 2}
    compacting = SystemMessage(subtype="status", data={"status": "compacting"})
    messages = [SystemMessage(subtype="api_retry", data=retry), compacting]
    notices = [event for message in messages for event in translator.read(message)]
    assert [type(event) for event in notices] == [Notice, Notice]


def test_messages_of_a_kind_nobody_knows_are_no_events() -> None:
    translator = Translator("p")
    odd = SystemMessage(subtype="init", data={"session_id": None})
    assert list(translator.read(odd)) == []
    assert list(translator.read(UserMessage(content="text"))) == []


def test_usage_of_a_turn_without_a_result_comes_from_its_stream() -> None:
    translator = Translator("p")
    for message in streamed("m1", ["a", "b"]) + streamed("m2", ["c"], stop=None):
        list(translator.read(message))
    assert (translator.usage.input_tokens, translator.usage.output_tokens) == (20, 2)
