"""The fast path of text: one spelling, whose literal can be spliced without decoding it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.wire.events import (
    Notice,
    TextDelta,
    ThinkingDelta,
    ToolCall,
    TurnEnded,
    Usage,
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


def test_prompt_tokens_count_what_came_from_a_cache() -> None:
    usage = Usage(input_tokens=1, cache_creation_input_tokens=2, cache_read_input_tokens=3)
    assert usage.prompt_tokens == 6
