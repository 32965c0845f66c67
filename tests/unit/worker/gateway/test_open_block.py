"""A text that breaks off is finished, as it stands."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.gateway.model.open_block import HELD_MAX_BYTES, OpenBlock

STOP = b'event: content_block_stop\ndata: {"type":"content_block_stop","index":1}\n\n'


def sse(kind: str, **fields: Any) -> bytes:
    told = json.dumps({"type": kind, **fields}, separators=(",", ":"))
    return f"event: {kind}\ndata: {told}\n\n".encode()


def start(kind: str = "text", index: int = 1) -> bytes:
    return sse("content_block_start", index=index, content_block={"type": kind, kind: ""})


def delta(text: str, index: int = 1) -> bytes:
    return sse("content_block_delta", index=index, delta={"type": "text_delta", "text": text})


def stop(index: int = 1) -> bytes:
    return sse("content_block_stop", index=index)


def ending(*chunks: bytes) -> bytes:
    block = OpenBlock()
    for chunk in chunks:
        block.feed(chunk)
    return block.ending()


@pytest.mark.parametrize("text", ["one ", '"', "\n x", "\u00e9", "\\"])
def test_a_block_of_text_with_words_is_finished(text: str) -> None:
    assert ending(start(), delta(text)) == STOP


@pytest.mark.parametrize(
    "chunks",
    [
        [],
        [start()],
        [start(), delta(" \n\t")],
        [start(), delta("one"), stop()],
        [start("thinking")],
        [start("tool_use")],
        [start(), delta("one"), stop(), start("tool_use", 2)],
        [start(), delta("one"), b"data: " + b"x" * HELD_MAX_BYTES],
    ],
)
def test_nothing_else_is(chunks: list[bytes]) -> None:
    assert ending(*chunks) == b""


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
@given(size=st.integers(1, 400))
def test_it_does_not_matter_where_the_bytes_are_cut(newline: bytes, size: int) -> None:
    """Events are passed on whole, and an error only behind a finished block."""
    block, passed = OpenBlock(), []
    before = start(index=0) + delta("one", 0) + stop(0) + start() + delta(" ") + delta("two")
    error = sse("error", error={"type": "overloaded_error"})
    before, error = (part.replace(b"\n", newline) for part in (before, error))
    sent = before + error + b"event: ping"
    for at in range(0, len(sent), size):
        passed.append(block.feed(sent[at : at + size]))
    assert all(part.endswith(2 * newline) for part in passed if part)
    assert b"".join(passed) == before + STOP + error
    assert block.rest() == b"event: ping"


def test_half_an_event_is_kept_back_and_the_block_finished_before_it() -> None:
    block = OpenBlock()
    assert block.feed(start() + delta("one") + delta("two")[:-1]) == start() + delta("one")
    assert block.ending() == STOP


def test_a_block_is_finished_once() -> None:
    """A connection that breaks after the upstream's error has no second end to tell."""
    block = OpenBlock()
    error = sse("error", error={"type": "overloaded_error"})
    assert block.feed(start() + delta("one") + error) == start() + delta("one") + STOP + error
    assert block.ending() == b""


def test_an_event_that_is_too_long_to_wait_for_passes_as_it_comes() -> None:
    long = sse("content_block_start", index=0, content_block={"type": "x", "x": "x" * 3_000_000})
    sent = long + start() + delta("one")
    block, passed = OpenBlock(), b""
    for at in range(0, len(sent), 100_000):
        passed += block.feed(sent[at : at + 100_000])
        assert at - len(passed) <= HELD_MAX_BYTES
        assert block.is_between_events is (len(passed) in (0, len(sent)))
    assert passed == sent
    assert block.ending() == STOP


def test_words_of_the_model_are_no_error() -> None:
    block = OpenBlock()
    sent = start() + delta("event: error\n")
    assert block.feed(sent) == sent
    assert block.ending() == STOP
