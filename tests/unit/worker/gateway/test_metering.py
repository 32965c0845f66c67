"""Tokens read from answers that arrive in any pieces."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest

from infra.scripted_model.messages import Writer, event
from infra.scripted_model.replies import Tokens, text
from infra.wire.events import Usage
from infra.wire.gateway import ModelUsage, TurnMeter
from infra.wire.ids import TurnId
from worker.gateway.model.metering import CallMeter, Ledger, TurnCounter

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
    raw = whole_message()
    meter.feed(raw[:20])
    meter.feed(raw[20:])
    meter.end()
    assert meter.usage == USAGE


def whole_message() -> bytes:
    return json.dumps(Writer(text("hi", tokens=TOKENS), model="m", input_tokens=1).whole()).encode()


def test_a_message_counts_in_full_for_who_leaves_without_waiting_for_the_bodys_end() -> None:
    """An agent that hung up as soon as it had the JSON used no token of its budget."""
    counter = TurnCounter()
    meter = CallMeter(is_stream=False, status=200, retry_after_s=None)
    with contextlib.suppress(ConnectionResetError), counter.call(meter, "m"):
        meter.feed(whole_message())
        raise ConnectionResetError
    assert counter.read().usage == USAGE
    assert counter.spent_tokens == USAGE.spent_tokens


def test_of_a_message_that_broke_off_the_output_is_estimated_by_what_passed() -> None:
    counter = TurnCounter()
    meter = CallMeter(is_stream=False, status=200, retry_after_s=None)
    with counter.call(meter, "m"):
        meter.feed(b"x" * 4000)
        assert counter.spent_tokens == 1000
    assert counter.spent_tokens == 1000


def test_an_error_costs_nothing() -> None:
    counter = TurnCounter()
    meter = CallMeter(is_stream=False, status=500, retry_after_s=None)
    with counter.call(meter, "m"):
        meter.feed(b"x" * 4000)
    assert counter.spent_tokens == 0


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
    with counter.call(first, "large"):
        first.feed(STREAM)
    with counter.call(second, "small"):
        second.feed(STREAM)
        under_way = counter.read()
    assert counter.read() == under_way
    assert under_way.calls == 2
    assert under_way.usage.input_tokens == 200
    assert under_way.usage.output_tokens == 14
    assert under_way.models == {
        name: ModelUsage(calls=1, usage=USAGE) for name in ("large", "small")
    }
    assert counter.spent_tokens == under_way.usage.spent_tokens == 2 * (100 + 7 + 20)


@pytest.mark.parametrize("size", [1, 7, 1000, len(STREAM)])
def test_the_output_of_a_stream_that_breaks_off_is_estimated_by_what_passed(size: int) -> None:
    said = " ".join(["four"] * 200)
    whole = b"".join(p.data for p in Writer(text(said), model="m", input_tokens=9).parts())
    broken = whole[: whole.index(b"event: message_delta")]
    meter = stream_meter()
    for at in range(0, len(broken), size):
        meter.feed(broken[at : at + size])
    assert not meter.is_final
    assert 150 <= meter.usage.output_tokens <= 400
    assert meter.spent_tokens == meter.usage.spent_tokens


def test_a_long_delta_counts_by_its_length_and_a_signature_not_at_all() -> None:
    meter = stream_meter()
    told = {"type": "signature_delta", "signature": "s" * 4000}
    meter.feed(event("content_block_delta", index=0, delta=told))
    assert meter.usage == Usage()
    told = {"type": "text_delta", "text": "x" * 4000}
    meter.feed(event("content_block_delta", index=0, delta=told))
    assert 990 <= meter.usage.output_tokens <= 1010


def test_the_figures_of_a_turn_outlive_its_end_and_go_on_when_it_comes_back() -> None:
    ledger, turn = Ledger("one", closed_max=1), TurnId("a")
    with ledger.open(turn).call(stream_meter(), "m"):
        assert ledger.read_open().turns[turn].calls == 1
    ledger.close(turn)
    assert ledger.read_open().turns == {}
    assert (ledger.read(turn).calls, ledger.read(turn).instance) == (1, "one")
    with ledger.open(turn).call(stream_meter(), "m"):
        assert ledger.read(turn).calls == 2
    ledger.close(turn)
    ledger.open(TurnId("b"))
    ledger.close(TurnId("b"))
    assert ledger.read(turn) == TurnMeter(instance="one")


async def test_an_answer_left_before_its_first_figure_counts_an_estimate() -> None:
    counter = TurnCounter()
    meter = CallMeter(
        is_stream=True, status=200, retry_after_s=None, estimate=lambda: Usage(input_tokens=50)
    )
    with contextlib.suppress(asyncio.CancelledError), counter.call(meter, "m"):
        meter.feed(b"event: ping\ndata: {}\n\n")
        raise asyncio.CancelledError
    assert counter.spent_tokens == 50
    assert counter.read().models == {"m": ModelUsage(calls=1, usage=Usage(input_tokens=50))}


async def test_an_answer_left_after_its_first_figures_counts_those() -> None:
    counter = TurnCounter()
    meter = CallMeter(
        is_stream=True, status=200, retry_after_s=None, estimate=lambda: Usage(input_tokens=50)
    )
    with contextlib.suppress(asyncio.CancelledError), counter.call(meter, "m"):
        meter.feed(STREAM[: STREAM.index(b"\n\n") + 2])
        raise asyncio.CancelledError
    assert counter.read().usage.input_tokens == 100
