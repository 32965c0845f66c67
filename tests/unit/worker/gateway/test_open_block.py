"""A text that breaks off is finished, as it stands."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.gateway.model.open_block import OpenBlock

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
        [start(), delta("one"), b'event: content_block_delta\ndata: {"type":"con'],
        [start(), delta("one"), b"data: " + b"x" * 70_000],
    ],
)
def test_nothing_else_is(chunks: list[bytes]) -> None:
    assert ending(*chunks) == b""


@given(st.integers(1, 400))
def test_it_does_not_matter_where_the_bytes_are_cut(size: int) -> None:
    sent = start(index=0) + delta("one", 0) + stop(0) + start() + delta(" ") + delta("two")
    assert ending(*(sent[at : at + size] for at in range(0, len(sent), size))) == STOP


def test_an_error_is_found_only_where_an_event_begins() -> None:
    block = OpenBlock()
    block.feed(start() + delta("one"))
    error = sse("error", error={"type": "overloaded_error"})
    assert block.error_in(error) == 0
    assert block.error_in(delta("two") + error) == len(delta("two"))
    assert block.error_in(delta("event: error\n")) == -1
    block.feed(b"event: content_block_delta\n")
    assert block.error_in(error) == -1
