"""Tokens read from answers that arrive in any pieces."""

from __future__ import annotations

import json

import pytest

from infra.scripted_model.messages import Writer, event
from infra.scripted_model.replies import Tokens, text
from infra.wire.events import Usage
from worker.gateway.metering import CallMeter, TurnCounter

TOKENS = Tokens(100, 7, 20, 3)
USAGE = Usage(
    input_tokens=100,
    output_tokens=7,
    cache_creation_input_tokens=20,
    cache_read_input_tokens=3,
)
STREAM = b"".join(
    part.data
    for part in Writer(text("one two three", tokens=TOKENS), model="m", input_tokens=1).parts()
)


def stream_meter() -> CallMeter:
    return CallMeter(is_stream=True, status=200, retry_after_s=None)


@pytest.mark.parametrize("size", [1, 2, 7, 64, 1000, len(STREAM)])
def test_a_stream_is_read_however_it_is_cut(size: int) -> None:
    meter = stream_meter()
    for at in range(0, len(STREAM), size):
        meter.feed(STREAM[at : at + size])
    meter.end()
    assert meter.usage == USAGE
    assert meter.error is None


def test_lines_may_end_as_in_http() -> None:
    meter = stream_meter()
    meter.feed(STREAM.replace(b"\n", b"\r\n"))
    assert meter.usage == USAGE


def test_a_broken_stream_counts_its_input() -> None:
    meter = stream_meter()
    meter.feed(STREAM[: STREAM.index(b"event: content_block_delta")])
    assert meter.usage == USAGE.model_copy(update={"output_tokens": 1})


def test_figures_the_upstream_corrects_at_the_end_count() -> None:
    meter = stream_meter()
    meter.feed(STREAM)
    meter.feed(event("message_delta", usage={"input_tokens": 150, "output_tokens": 9}))
    assert (meter.usage.input_tokens, meter.usage.output_tokens) == (150, 9)


def test_a_whole_message_is_read_at_its_end() -> None:
    meter = CallMeter(is_stream=False, status=200, retry_after_s=None)
    raw = json.dumps(Writer(text("hi", tokens=TOKENS), model="m", input_tokens=1).whole()).encode()
    meter.feed(raw[:20])
    meter.feed(raw[20:])
    meter.end()
    assert meter.usage == USAGE


def test_an_error_event_is_remembered_with_the_status_it_stands_for() -> None:
    meter = stream_meter()
    meter.feed(event("error", error={"type": "overloaded_error", "message": "x"}))
    assert meter.error is not None
    assert (meter.error.status, meter.error.kind) == (529, "overloaded_error")


@pytest.mark.parametrize(
    "raw",
    [
        b"event: message_start\ndata: {broken\n\n",
        b"event: message_start\ndata: []\n\n",
        b'event: message_start\ndata: {"type":"message_start","message":null}\n\n',
        b'event: message_delta\ndata: {"type":"message_delta","usage":{"output_tokens":"7"}}\n\n',
        b'event: error\ndata: {"type":"error","error":7}\n\n',
        b"\x00\xff\n\n\n",
    ],
)
def test_nonsense_breaks_nothing(raw: bytes) -> None:
    meter = stream_meter()
    meter.feed(raw)
    meter.end()
    assert meter.usage == Usage()


def test_a_huge_line_is_skipped_and_the_next_one_read() -> None:
    meter = stream_meter()
    meter.feed(b"event: content_block_delta\ndata: ")
    for _ in range(100):
        meter.feed(b"x" * 50_000)
    meter.feed(b"\n\n" + STREAM)
    assert meter.usage == USAGE


def test_a_turn_adds_up_its_calls_with_those_under_way() -> None:
    counter = TurnCounter()
    first, second = stream_meter(), stream_meter()
    with counter.call(first):
        first.feed(STREAM)
    with counter.call(second):
        second.feed(STREAM)
        under_way = counter.read()
    assert counter.read() == under_way
    assert under_way.calls == 2
    assert under_way.usage.input_tokens == 200
    assert under_way.usage.output_tokens == 14
