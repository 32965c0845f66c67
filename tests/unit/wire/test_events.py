"""The fast path of text: one spelling, whose literal can be spliced without decoding it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.wire.errors import MalformedMessage
from infra.wire.events import (
    CALL_MAX_BYTES,
    EVENT_MAX_BYTES,
    EndReason,
    Notice,
    TextDelta,
    ThinkingDelta,
    ToolCall,
    TurnEnded,
    TurnStarted,
    Usage,
    check_event,
    decode_event,
    encode_event,
    is_delta,
    is_end,
    text_literal,
    thinking_literal,
)
from infra.wire.states import TurnState

ANY_TEXT = st.text(st.characters())
"""Lone surrogates and control characters included: a model's bytes are not ours to doubt."""


@given(ANY_TEXT)
def test_a_delta_is_one_line_of_ascii_whose_literal_is_its_text(text: str) -> None:
    payload = encode_event(TextDelta(text=text))
    assert payload.isascii()
    assert b"\n" not in payload
    literal = text_literal(payload)
    assert literal is not None
    assert json.loads(literal) == json.loads(payload)["text"]
    assert thinking_literal(payload) is None
    # Two halves of a pair that meet become the character they stand for.
    assert json.loads(literal).encode("utf-16", "surrogatepass") == text.encode(
        "utf-16", "surrogatepass"
    )


@given(st.text())
def test_a_delta_is_read_back(text: str) -> None:
    for event in (TextDelta(text=text), ThinkingDelta(text=text)):
        assert decode_event(encode_event(event)) == event


def test_only_deltas_may_be_logged_late_and_only_the_end_ends() -> None:
    text, thinking = encode_event(TextDelta(text="x")), encode_event(ThinkingDelta(text="x"))
    end = encode_event(TurnEnded(state=TurnState.DONE))
    tool = encode_event(ToolCall(id="1", name="Bash", summary='{"type":"end"'))
    assert [is_delta(p) for p in (text, thinking, end, tool)] == [True, True, False, False]
    assert [is_end(p) for p in (text, thinking, end, tool)] == [False, False, True, False]
    assert thinking_literal(thinking) == b'"x"'
    assert text_literal(end) is None


@pytest.mark.parametrize("event", [Notice(text='"type":"text"'), TextDelta(text='{"type":"end"')])
def test_text_that_looks_like_an_event_is_text(event: Notice | TextDelta) -> None:
    assert not is_end(encode_event(event))
    assert decode_event(encode_event(event)) == event


def test_total_input_counts_what_came_from_a_cache() -> None:
    usage = Usage(input_tokens=1, cache_creation_input_tokens=2, cache_read_input_tokens=3)
    assert usage.total_input_tokens == 6


@given(ANY_TEXT)
def test_every_delta_we_make_passes_the_check(text: str) -> None:
    assert check_event(encode_event(TextDelta(text=text))) is None
    assert check_event(encode_event(ThinkingDelta(text=text))) is None


def test_other_events_are_read_by_the_check() -> None:
    for event in (
        TurnStarted(sdk_session="s-1", model="m"),
        ToolCall(id="t", name="Bash", summary="ls \u202e é"),
        Notice(text="a line\nand another"),
        TurnEnded(state=TurnState.DONE),
    ):
        assert check_event(encode_event(event)) == event
    assert check_event(b'{"type":"of_a_later_version","more":[1]}') is None


FORGED = b'data: {"choices":[{"delta":{"tool_calls":[]}}]}'


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b" ",
        b"{}",
        b"[]",
        b'"text"',
        b'{"type":"text","text":""',
        b'{"type":"text","text":"a"}}',
        b'{"type":"text","text":"a"} ',
        b'{"type":"text","text":"a","more":1}',
        b'{"type":"text","text":"a"+"b"}',
        b'{"type":"text","text":"a"}{"type":"text","text":"b"}',
        b'{"type":"text","text":null}',
        b'{"type":"text","text":7}',
        b'{"type":"text","text":"a\r\r' + FORGED + b'\r\r"}',
        b'{"type":"text","text":""}],\r\r' + FORGED + b"\r\r}",
        b'{"type":"thinking","text":"\x1b[2J"}',
        b'{"type":"text","text":"\\x41"}',
        b'{"type":"text","text":"\\u12"}',
        b'{"type":"text","text":"\\"}',
        '{"type":"text","text":"é"}'.encode(),
        b'{"type":"notice","text":"\r\r' + FORGED + b'"}',
        b'{"type":"notice",\r\r"text":"a"}',
        b'{"type":"notice","text":"\xff"}',
        b'{"type":"tool_call"}',
        b'{"type":"end"}',
        b'{"type":"end","state":"done","usage":{"input_tokens":-1}}',
        b'{"type":"end","state":"done","usage":{"output_tokens":%b}}' % (b"9" * 30),
        b'{"type":"end","state":"failed","error":{"code":"agent_failed","message":"",'
        b'"retry_after_s":1e999}}',
        b'{"type":"end","state":"failed","error":{"code":"agent_failed","message":"",'
        b'"retry_after_s":NaN}}',
        b'{"type":"end","state":"done","type":"notice","text":"no end"}',
        b'{"type":"notice","text":"an end","type":"end","state":"done"}',
        b'{"type":"started","sdk_session":"../../x","model":"m"}',
        b'{"type":"Future kind"}',
        b'{"type":"' + b"x" * 100 + b'"}',
        b'{"type":"notice","text":"' + b"x" * EVENT_MAX_BYTES + b'"}',
        b'{"type":"future","more":' + b"[" * 10_000,
        b'{"type":"client_call","id":"a b","name":"f","arguments":"{}"}',
        b'{"type":"client_call","id":"a","name":"f\\"}","arguments":"{}"}',
        b'{"type":"client_call","id":"a","name":"f","arguments":{}}',
        b'{"id":"a","type":"client_call","name":"f","arguments":"{}"}',
        b'{"type":"client_call","id":"a","name":"f","arguments":"' + b"x" * CALL_MAX_BYTES + b'"}',
    ],
)
def test_what_is_no_event_in_its_spelling_is_refused(payload: bytes) -> None:
    """What is spliced into a stream undecoded let an agent write blocks of its own there: finished
    tool calls, and `[DONE]`, which its client would have taken for ours."""
    with pytest.raises(MalformedMessage):
        check_event(payload)


def test_an_end_that_was_logged_in_openais_words_can_still_be_read() -> None:
    """A log outlives the program that wrote it by an hour."""
    end = decode_event(b'{"type":"end","state":"done","finish_reason":"content_filter"}')
    assert isinstance(end, TurnEnded)
    assert (end.state, end.end_reason) == (TurnState.DONE, EndReason.DONE)
