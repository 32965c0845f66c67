"""Events become OpenAI's chunks, byte for byte."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from openai.types.chat import ChatCompletionChunk

from api.chat.answer.chunks import ChunkFrames
from api.chat.answer.vocabulary import FINISH_REASONS
from api.turns.chain import AnswerHead
from api.turns.shown.channels import Channels, is_sight, read_end
from infra.runtime.settings import ToolDisplay
from infra.wire.errors import AgClusterError, ErrorCode, TurnFailed
from infra.wire.events import (
    EndReason,
    Event,
    Notice,
    TextDelta,
    ThinkingDelta,
    ToolCall,
    ToolResult,
    TurnEnded,
    TurnError,
    TurnStarted,
    Usage,
    encode_event,
)
from infra.wire.ids import TurnId
from infra.wire.states import TurnState
from tests.fakes.sse import blocks_of, data_of, parts_of

STARTED = TurnStarted(sdk_session="s", model="m")
CALL = ToolCall(id="1", name="Bash", summary="ls -la")
RESULT = ToolResult(id="1", name="Bash", summary="3 files")


def frames(
    *,
    display: ToolDisplay = ToolDisplay.REASONING,
    include_usage: bool = False,
    is_numbered: bool = False,
) -> ChunkFrames:
    return ChunkFrames(
        TurnId("turn_1"),
        created=1700000000,
        model="claude",
        include_usage=include_usage,
        display=display,
        is_numbered=is_numbered,
    )


def chunks(stream: bytes) -> list[ChatCompletionChunk]:
    return [
        ChatCompletionChunk.model_validate_json(body, strict=False)
        for body in data_of(stream)
        if body != "[DONE]"
    ]


def shown(events: Sequence[Event], display: ToolDisplay) -> tuple[str, str]:
    """Content and reasoning of some events."""
    out = {False: "", True: ""}
    channels = Channels(display)
    for event in events:
        if piece := channels.piece(encode_event(event)):
            out[piece[0]] += json.loads(piece[1])
    return out[False], out[True]


def test_nothing_is_shown_inside_a_text_that_is_json() -> None:
    formed = STARTED.model_copy(update={"has_form": True})
    events: list[Event] = [
        formed,
        ThinkingDelta(text="hm"),
        CALL,
        RESULT,
        TextDelta(text='{"a":1}'),
    ]
    content, reasoning = shown(events, ToolDisplay.TEXT)
    assert content == '{"a":1}'
    assert "Bash" in reasoning
    assert "Bash" in shown([STARTED, *events[1:]], ToolDisplay.TEXT)[0]


def test_text_delta_is_spliced_byte_for_byte() -> None:
    rendered = frames(is_numbered=True).render([encode_event(TextDelta(text='a "b"\n é 😀'))], 7)
    assert rendered == (
        b'id: 7\ndata: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,'
        b'"model":"claude","system_fingerprint":null,"choices":[{"index":0,"delta":'
        b'{"content":"a \\"b\\"\\n \\u00e9 \\ud83d\\ude00"},"logprobs":null,'
        b'"finish_reason":null}]}\n\n'
    )


def test_first_chunk_has_the_role() -> None:
    (chunk,) = chunks(frames().first())
    assert chunk.choices[0].delta.role == "assistant"
    assert chunk.choices[0].delta.content == ""
    assert chunk.choices[0].finish_reason is None


def test_every_chunk_parses_as_openais() -> None:
    made = frames(include_usage=True)
    stream = made.first() + made.render(
        [encode_event(e) for e in (STARTED, ThinkingDelta(text="hm"), CALL, TextDelta(text="yes"))],
        1,
    )
    stream += made.last(TurnEnded(state=TurnState.DONE, usage=Usage(input_tokens=1)), 5)
    read = chunks(stream)
    assert {c.id for c in read} == {"chatcmpl-1"}
    assert [c.choices[0].finish_reason for c in read if c.choices] == [None] * 4 + ["stop"]


def test_usage_is_null_until_the_last_chunk_when_asked_for() -> None:
    made = frames(include_usage=True)
    usage = Usage(input_tokens=1, output_tokens=2, cache_read_input_tokens=4, thinking_tokens=2)
    stream = made.first() + made.last(TurnEnded(state=TurnState.DONE, usage=usage), 2)
    bodies = [json.loads(data) for data in data_of(stream) if data != "[DONE]"]
    assert [b["usage"] for b in bodies[:-1]] == [None, None]
    assert bodies[-1]["choices"] == []
    assert bodies[-1]["usage"] == {
        "prompt_tokens": 5,
        "completion_tokens": 2,
        "total_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    assert stream.endswith(b"data: [DONE]\n\n")


def test_no_usage_unless_asked_for() -> None:
    made = frames()
    stream = made.first() + made.last(TurnEnded(state=TurnState.DONE), 2)
    assert b"usage" not in stream
    assert b'"choices":[]' not in stream


@pytest.mark.parametrize("reason", list(EndReason))
def test_finish_reason_is_openais_word_for_the_events(reason: EndReason) -> None:
    last = chunks(frames().last(TurnEnded(state=TurnState.DONE, end_reason=reason), 2))
    assert last[-1].choices[0].finish_reason == FINISH_REASONS[reason]


def test_model_name_cannot_break_out_of_its_string() -> None:
    made = ChunkFrames(
        TurnId("t"), created=1, model='a"b\\%s', include_usage=False, display=ToolDisplay.OFF
    )
    assert chunks(made.first())[0].model == 'a"b\\%s'
    assert chunks(made.last(TurnEnded(state=TurnState.DONE), 2))[0].model == 'a"b\\%s'


def test_every_chunk_says_where_in_the_turn_it_stands() -> None:
    made = frames(include_usage=True, is_numbered=True)
    events = [encode_event(e) for e in (STARTED, TextDelta(text="a"), CALL, TextDelta(text="b"))]
    stream = made.first() + made.render(events[:2], 1) + made.render(events[2:], 3)
    stream += made.last(TurnEnded(state=TurnState.DONE), 5)
    assert [block.id for block in blocks_of(stream)] == [0, 2, 3, 4, 5, 5, 5]


def test_what_was_seen_before_counts_for_the_breaks_after_it() -> None:
    events = [encode_event(e) for e in (TextDelta(text="a"), CALL, TextDelta(text="b"))]
    whole, rest = frames(display=ToolDisplay.TEXT), frames(display=ToolDisplay.TEXT)
    rest.skip(events[:2])
    assert whole.render(events, 1).endswith(rest.render(events[2:], 3))
    assert b'"\\nb"' in rest.render(events[1:], 4) + whole.render(events[1:], 4)


def test_head_of_the_answer_is_gathered_on_the_way() -> None:
    head = AnswerHead()
    made = ChunkFrames(
        TurnId("t"), created=1, model="m", include_usage=False, display=ToolDisplay.REASONING,
        head=head,
    )  # fmt: skip
    said: list[Event] = [ThinkingDelta(text="hm"), TextDelta(text="Ye s"), CALL]
    made.render(map(encode_event, [*said, TextDelta(text="\n" + "x" * 100)]), 1)
    assert head.text == "Yes" + "x" * 61


def test_tools_and_thinking_are_reasoning_by_default() -> None:
    events: list[Event] = [ThinkingDelta(text="let me see"), CALL, RESULT, TextDelta(text="Three.")]
    content, reasoning = shown(events, ToolDisplay.REASONING)
    assert content == "Three."
    assert reasoning == "let me see\nBash: ls -la\nBash → 3 files\n"


def test_tools_and_thinking_can_be_hidden() -> None:
    events: list[Event] = [
        ThinkingDelta(text="x"),
        CALL,
        RESULT,
        Notice(text="n"),
        TextDelta(text="Three."),
    ]
    assert shown(events, ToolDisplay.OFF) == ("Three.", "")


def test_tools_and_thinking_can_be_text() -> None:
    events: list[Event] = [TextDelta(text="I look."), CALL, RESULT, TextDelta(text="Three.")]
    content, reasoning = shown(events, ToolDisplay.TEXT)
    assert content == "I look.\n\nBash: ls -la\nBash → 3 files\n\nThree."
    assert reasoning == ""


def test_line_that_is_broken_already_gets_no_second_break() -> None:
    events: list[Event] = [TextDelta(text="I look.\n"), CALL, TextDelta(text="\n\nThree.")]
    assert shown(events, ToolDisplay.TEXT)[0] == "I look.\nBash: ls -la\n\n\nThree."


@pytest.mark.parametrize("display", [ToolDisplay.REASONING, ToolDisplay.OFF])
def test_answer_is_the_agents_text_alone_where_tools_are_shown_elsewhere(
    display: ToolDisplay,
) -> None:
    events: list[Event] = [
        TextDelta(text="hal"),
        Notice(text="trying again"),
        CALL,
        TextDelta(text="f\n\nx"),
    ]
    assert shown(events, display)[0] == "half\n\nx"


def test_plain_text_passes_untouched() -> None:
    events: list[Event] = [STARTED, *(TextDelta(text=t) for t in ("1\n", "", "2", "\n\n3"))]
    assert shown(events, ToolDisplay.TEXT)[0] == "1\n2\n\n3"


def test_failed_tools_and_sub_agents_are_told_apart() -> None:
    events: list[Event] = [
        ToolCall(id="2", name="Read", summary="/x", parent="1"),
        ToolResult(id="2", name="Read", summary="no such file", is_error=True, parent="1"),
    ]
    assert shown(events, ToolDisplay.REASONING)[1] == "  Read: /x\n  Read ✗ no such file\n"


def test_event_of_a_later_version_is_counted_and_skipped() -> None:
    channels = Channels(ToolDisplay.REASONING)
    assert channels.piece(b'{"type":"hologram","x":1}') is None
    assert channels.unknown == 1


@pytest.mark.parametrize(
    ("event", "settles"),
    [
        (STARTED, False),
        (Notice(text="retrying"), False),
        (TextDelta(text="x"), True),
        (ThinkingDelta(text="x"), True),
        (CALL, True),
        (TurnEnded(state=TurnState.DONE), True),
    ],
)
def test_status_is_settled_by_the_first_sight_of_an_answer(event: Event, settles: bool) -> None:
    assert is_sight(encode_event(event)) is settles


def test_failed_end_carries_its_error() -> None:
    error = TurnError(code=ErrorCode.RATE_LIMITED, message="slow down", retry_after_s=7)
    with pytest.raises(TurnFailed, match="slow down") as failed:
        read_end(encode_event(TurnEnded(state=TurnState.FAILED, error=error)))
    assert failed.value.code is ErrorCode.RATE_LIMITED
    assert failed.value.retry_after_s == 7


def test_cancelled_end_is_an_error_for_whoever_still_listens() -> None:
    with pytest.raises(TurnFailed) as failed:
        read_end(encode_event(TurnEnded(state=TurnState.CANCELLED)))
    assert failed.value.code is ErrorCode.TURN_CANCELLED


@pytest.mark.parametrize(
    ("ahead", "told"), [(0, "next in line"), (1, "1 turn ahead"), (12, "12 turns ahead")]
)
def test_place_in_the_queue_is_a_comment(ahead: int, told: str) -> None:
    """A block of its own; but among numbered blocks none that ends an event."""
    assert frames().queue_comment(ahead) == f": queued, {told}\n\n".encode()
    assert frames(is_numbered=True).queue_comment(ahead) == f": queued, {told}\n".encode()


def test_place_in_the_queue_as_reasoning_stands_apart_from_what_follows() -> None:
    made = frames(is_numbered=True)
    stream = made.queue_note(2, 0) + made.queue_note(1, 0)
    stream += made.render([encode_event(ThinkingDelta(text="hm"))], 1)
    said = [json.loads(b.data)["choices"][0]["delta"] for b in blocks_of(stream)]
    assert "".join(delta["reasoning_content"] for delta in said) == (
        "Waiting: 2 turns ahead.\nWaiting: 1 turn ahead.\nhm"
    )
    assert [b.id for b in blocks_of(stream)] == [0, 0, 1]


def test_stream_is_blocks_of_data_alone_unless_numbers_are_asked_for() -> None:
    """Readers that split at blank lines and strip `data:` showed nothing of a block with an `id`,
    and lost the words of a block that a comment was glued to."""
    events = [encode_event(TextDelta(text=word)) for word in ("one ", "two")]
    end = TurnEnded(state=TurnState.DONE)
    for is_numbered in (False, True):
        made = frames(include_usage=True, is_numbered=is_numbered)
        stream = made.ping + made.first() + made.ping + made.render(events[:1], 1) + made.ping
        stream += made.queue_comment(1) + made.render(events[1:], 2) + made.last(end, 3)
        told = [block.data for block in blocks_of(stream)]
        assert [block.id for block in blocks_of(stream)] == (
            [0, 1, 2, 3, 3, 3] if is_numbered else [None] * 6
        )
        if not is_numbered:
            assert parts_of(stream) == told


def test_error_in_a_stream_is_one_event_that_says_how_to_come_back() -> None:
    for is_numbered in (False, True):
        made = frames(is_numbered=is_numbered)
        (block,) = blocks_of(made.failure(AgClusterError(), TurnId("turn_1"), 9))
        assert block.id == (9 if is_numbered else None)
        body = json.loads(block.data)
        assert (body["id"], body["starting_after"]) == ("chatcmpl-1", 9)
        assert set(body["error"]) == {"message", "type", "param", "code"}


def test_lines_of_sub_agents_that_work_at_once_say_whose_they_are() -> None:
    def call(id: str, summary: str, parent: str | None = None) -> ToolCall:
        return ToolCall(id=id, name="Bash" if parent else "Agent", summary=summary, parent=parent)

    def result(id: str, parent: str | None = None) -> ToolResult:
        return ToolResult(id=id, name="Bash" if parent else "Agent", summary="ok", parent=parent)

    alone: list[Event] = [call("a", "first"), call("a1", "ls", "a"), result("a1", "a"), result("a")]
    both: list[Event] = [call("b", "left"), call("c", "right"), call("b1", "ls", "b"), result("b")]
    _, reasoning = shown([*alone, *both, result("c1", "c"), result("c")], ToolDisplay.REASONING)
    assert reasoning.splitlines() == [
        "Agent: first",
        "  Bash: ls",
        "  Bash → ok",
        "Agent → ok",
        "Agent: left",
        "Agent: right",
        "  left › Bash: ls",
        "Agent → left: ok",
        "  right › Bash → ok",
        "Agent → right: ok",
    ]


def test_a_sub_agent_within_another_is_not_beside_it() -> None:
    events: list[Event] = [
        ToolCall(id="a", name="Agent", summary="outer"),
        ToolCall(id="b", name="Agent", summary="inner", parent="a"),
        ToolCall(id="b1", name="Bash", summary="ls", parent="b"),
        ToolResult(id="b", name="Agent", summary="ok", parent="a"),
        ToolResult(id="a", name="Agent", summary="ok"),
    ]
    _, reasoning = shown(events, ToolDisplay.REASONING)
    assert reasoning.splitlines() == [
        "Agent: outer",
        "  Agent: inner",
        "  Bash: ls",
        "  Agent → ok",
        "Agent → ok",
    ]
