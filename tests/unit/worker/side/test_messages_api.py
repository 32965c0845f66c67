"""A side turn as a request of the Messages API, and its streamed answer as events."""

from __future__ import annotations

import json
from typing import Any

import pytest

from infra.wire.errors import ErrorCode
from infra.wire.events import EndReason, Event, TextDelta, ThinkingDelta, Usage
from infra.wire.ids import ConversationKey, TenantId, TurnId
from infra.wire.model.upstream import OPENING, content_block
from infra.wire.options import TurnOptions
from infra.wire.states import TurnState
from infra.wire.turns import (
    DocumentBlock,
    FileBlock,
    HistoryMessage,
    ImageBlock,
    Lane,
    TextBlock,
    TurnRequest,
)
from tests.fakes.memory_gateway import SSE_END, SSE_START, sse, sse_text
from worker.side.messages_api import AnswerStream, refusal, request_body


def request_of(*prompt: Any, **more: Any) -> TurnRequest:
    return TurnRequest(
        turn=TurnId("t1"),
        conversation=ConversationKey("c" * 24),
        tenant=TenantId("t" * 20),
        model="claude-test",
        prompt=prompt or (TextBlock(text="Name it."),),
        deadline_s=60,
        idle_timeout_s=0,
        lane=Lane.SIDE,
        **more,
    )


def said(role: str, *texts: str) -> HistoryMessage:
    content = tuple(TextBlock(text=text) for text in texts)
    return HistoryMessage.model_validate({"role": role, "content": content})


def read(*chunks: bytes) -> tuple[list[Event], AnswerStream]:
    stream = AnswerStream()
    return [event for chunk in chunks for event in stream.feed(chunk)], stream


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def test_an_answer_is_bound_to_what_a_budget_leaves() -> None:
    """A client may ask for a longer one, and nothing would cut it."""
    for asked, left, bound in ((64_000, 50, 50), (20, 50, 20), (None, 50, 50), (20, 0, 1)):
        body = request_body(
            request_of(turn_options=TurnOptions(max_tokens=asked)),
            max_tokens=1024,
            budget_tokens=left,
        )
        assert body["max_tokens"] == bound


def test_a_request_streams_and_has_the_clients_words_only() -> None:
    body = request_body(request_of(), max_tokens=1024)
    assert body == {
        "model": "claude-test",
        "max_tokens": 1024,
        "stream": True,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Name it."}]}],
    }


def test_the_clients_system_prompt_and_bound_are_kept() -> None:
    asked = request_of(system_prompt="Be brief.", turn_options=TurnOptions(max_tokens=20))
    body = request_body(asked, max_tokens=1024)
    assert (body["system"], body["max_tokens"]) == ("Be brief.", 20)


def test_history_keeps_its_roles_and_neighbours_are_joined() -> None:
    history = (said("user", "a"), said("user", "b", " "), said("assistant", "c"), said("user", "d"))
    messages = request_body(request_of(history=history), max_tokens=1)["messages"]
    assert [(m["role"], [part["text"] for part in m["content"]]) for m in messages] == [
        ("user", ["a", "b"]),
        ("assistant", ["c"]),
        ("user", ["d", "Name it."]),
    ]


def test_a_history_that_begins_with_the_assistant_is_opened() -> None:
    messages = request_body(request_of(history=(said("assistant", "Hi"),)), max_tokens=1)[
        "messages"
    ]
    assert messages[0] == {"role": "user", "content": [{"type": "text", "text": OPENING}]}


def test_pictures_and_documents_go_along() -> None:
    body = request_body(
        request_of(
            ImageBlock(media_type="image/png", data="aGk="),
            DocumentBlock(media_type="application/pdf", data="aG8=", filename="a.pdf"),
        ),
        max_tokens=1,
    )
    image, document = body["messages"][0]["content"]
    assert image["source"] == {"type": "base64", "media_type": "image/png", "data": "aGk="}
    assert (document["type"], document["title"]) == ("document", "a.pdf")


def test_of_a_file_a_side_request_gets_the_text_or_that_it_was_left_out() -> None:
    """It has no workspace."""
    file = FileBlock(media_type="", bytes=4, digest="0" * 64, filename="a.csv", data="YTti")
    gone = file.model_copy(update={"data": None})
    assert content_block(file) == {"type": "text", "text": "[File a.csv]\na;b"}
    for other in (gone, file.model_copy(update={"data": "AAAA"})):
        assert content_block(other) == {
            "type": "text",
            "text": "[Left out here: the file a.csv]",
        }


def test_deltas_are_read_wherever_their_bytes_are_cut() -> None:
    whole = SSE_START + sse_text("Größe ") + sse({"type": "ping"}) + sse_text("🙂") + SSE_END
    for size in (1, 7, len(whole)):
        events, stream = read(*(whole[i : i + size] for i in range(0, len(whole), size)))
        assert text_of(events) == "Größe 🙂"
        end = stream.ended()
        assert end.state is TurnState.DONE
        assert end.usage == Usage(input_tokens=7, output_tokens=5)


def test_lines_may_end_in_carriage_returns() -> None:
    events, stream = read((sse_text("hi") + SSE_END).replace(b"\n", b"\r\n"))
    assert text_of(events) == "hi"
    assert stream.ended().state is TurnState.DONE


def test_thinking_is_told_apart() -> None:
    delta = {"type": "thinking_delta", "thinking": "hm"}
    events, _ = read(sse({"type": "content_block_delta", "delta": delta}))
    assert events == [ThinkingDelta(text="hm")]


@pytest.mark.parametrize(
    ("stop_reason", "finish"),
    [
        ("end_turn", EndReason.DONE),
        ("stop_sequence", EndReason.DONE),
        ("max_tokens", EndReason.LENGTH),
        ("refusal", EndReason.REFUSED),
    ],
)
def test_a_stop_reason_becomes_an_end_reason(stop_reason: str, finish: EndReason) -> None:
    _, stream = read(
        sse({"type": "message_delta", "delta": {"stop_reason": stop_reason}}),
        sse({"type": "message_stop"}),
    )
    assert stream.ended().end_reason is finish


def test_a_stream_without_its_end_is_a_failure() -> None:
    _, stream = read(SSE_START, sse_text("half a ti"))
    end = stream.ended()
    assert end.error is not None
    assert (end.state, end.error.code) == (TurnState.FAILED, ErrorCode.UPSTREAM_ERROR)
    assert end.usage == Usage(input_tokens=7)


def test_an_error_in_the_stream_ends_it() -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    events, stream = read(sse_text("a"), sse(error), sse_text("b"), SSE_END)
    end = stream.ended()
    assert text_of(events) == "a"
    assert end.error is not None
    assert end.error.code is ErrorCode.OVERLOADED


@pytest.mark.parametrize("junk", [b"data: not json\n", b"data: " + b"x" * 2_000_000])
def test_what_is_no_stream_of_the_messages_api_is_a_failure(junk: bytes) -> None:
    _, stream = read(junk, b"\n" + SSE_END)
    assert stream.ended().state is TurnState.FAILED


def test_events_of_an_unknown_kind_are_skipped() -> None:
    events, stream = read(sse({"type": "news"}), b": comment\n\n", b"data: [1]\n\n", SSE_END)
    assert events == []
    assert stream.ended().state is TurnState.DONE


def error_body(kind: str, message: str) -> bytes:
    return json.dumps({"type": "error", "error": {"type": kind, "message": message}}).encode()


@pytest.mark.parametrize(
    ("status", "raw", "code"),
    [
        (401, error_body("authentication_error", "invalid x-api-key"), ErrorCode.INVALID_KEY),
        (404, error_body("not_found_error", "model: x"), ErrorCode.MODEL_NOT_FOUND),
        (
            400,
            error_body("invalid_request_error", "prompt is too long"),
            ErrorCode.CONTEXT_TOO_LONG,
        ),
        (413, b"<html>", ErrorCode.CONTEXT_TOO_LONG),
        (429, error_body("rate_limit_error", "slow down"), ErrorCode.RATE_LIMITED),
        (502, b"", ErrorCode.UPSTREAM_UNREACHABLE),
        (529, b"[]", ErrorCode.OVERLOADED),
        (500, b'{"error": "oops"}', ErrorCode.UPSTREAM_ERROR),
    ],
)
def test_a_refusal_has_the_code_an_agents_would_have(
    status: int, raw: bytes, code: ErrorCode
) -> None:
    error = refusal(status, raw, retry_after_s=3.0)
    assert (error.code, error.retry_after_s) == (code, 3.0)


def test_a_faulty_request_is_explained_without_places() -> None:
    raw = error_body("invalid_request_error", "bad image at https://internal.example/x\n\x07ok")
    message = refusal(400, raw, retry_after_s=None).message
    assert "bad image" in message
    assert "internal.example" not in message
    assert "\x07" not in message


def test_half_a_character_is_joined_or_marked() -> None:
    stop = sse({"type": "content_block_stop", "index": 0})
    halves = [sse_text(piece) for piece in ("ok ", "\ud83d", "\ude00", " \ud83d")]
    events, _ = read(SSE_START, *halves, stop, SSE_END)
    assert text_of(events) == "ok \U0001f600 \ufffd"
