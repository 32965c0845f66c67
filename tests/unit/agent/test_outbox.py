"""Frames are kept until acknowledged, joined while unread, and bounded."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from agent.outbox import FRAME_OVERHEAD_BYTES, JOINED_MAX_BYTES, Outbox
from infra.wire.events import (
    Event,
    Notice,
    TextDelta,
    ThinkingDelta,
    TurnEnded,
    decode_event,
    encode_event,
)
from infra.wire.ids import TurnId
from infra.wire.states import TurnState

END = TurnEnded(state=TurnState.DONE)


def outbox(*, max_bytes: int = 1_000_000) -> Outbox:
    return Outbox(TurnId("t"), max_bytes=max_bytes)


def read_all(box: Outbox) -> list[Event]:
    payloads = [box.take(n) for n in range(box.acked_n + 1, box.last_n + 1)]
    return [decode_event(payload) for payload in payloads if payload is not None]


async def test_frames_are_numbered_from_one_and_kept_until_acknowledged() -> None:
    box = outbox()
    for text in ("a", "b", "c"):
        await box.put(Notice(text=text))
    assert box.last_n == 3
    box.ack(2)
    assert box.take(2) is None
    assert box.take(3) == encode_event(Notice(text="c"))
    assert box.take(4) is None


async def test_a_frame_somebody_read_never_changes() -> None:
    box = outbox()
    await box.put(TextDelta(text="a"))
    first = box.take(1)
    await box.put(TextDelta(text="b"))
    assert box.take(1) == first
    assert [e.text for e in read_all(box) if isinstance(e, TextDelta)] == ["a", "b"]


async def test_unread_deltas_of_one_kind_are_joined() -> None:
    box = outbox()
    for text in ('a"', "\ud83d", "\ude00\n", "é"):
        await box.put(TextDelta(text=text))
    await box.put(ThinkingDelta(text="hm"))
    await box.put(TextDelta(text="b"))
    await box.put(Notice(text="n"))
    await box.put(TextDelta(text="c"))
    assert read_all(box) == [
        TextDelta(text='a"\U0001f600\né'),
        ThinkingDelta(text="hm"),
        TextDelta(text="b"),
        Notice(text="n"),
        TextDelta(text="c"),
    ]


async def test_a_joined_delta_does_not_grow_without_end() -> None:
    box = outbox()
    for _ in range(5):
        await box.put(TextDelta(text="x" * (JOINED_MAX_BYTES // 2)))
    assert box.last_n == 5


async def test_a_full_box_holds_its_writer_until_something_is_acknowledged() -> None:
    box = outbox(max_bytes=3 * FRAME_OVERHEAD_BYTES)
    written = []

    async def write() -> None:
        for i in range(5):
            await box.put(Notice(text=str(i)))
            written.append(i)

    async with asyncio.TaskGroup() as group:
        writer = group.create_task(write())
        await settle()
        assert len(written) < 5
        while not writer.done():
            box.ack(box.last_n)
            await settle()
    assert written == [0, 1, 2, 3, 4]


async def test_a_box_without_bound_holds_nobody() -> None:
    box = outbox(max_bytes=1)
    async with asyncio.TaskGroup() as group:
        writer = group.create_task(box.put(Notice(text="a")))
        await settle()
        assert not writer.done()
        box.lift_bound()
    await box.put(Notice(text="b"))
    assert box.last_n == 2


async def test_a_writer_that_is_cancelled_while_waiting_has_written() -> None:
    box = outbox(max_bytes=1)
    with suppress(TimeoutError):
        async with asyncio.timeout(0):
            await box.put(Notice(text="a"))
    assert read_all(box) == [Notice(text="a")]


async def test_the_end_is_put_past_the_bound_and_only_once() -> None:
    box = outbox(max_bytes=1)
    box.end(END)
    box.end(END)
    before = (box.last_n, box.is_settled)
    box.ack(1)
    assert before == (1, False)
    assert box.is_settled
    assert box.kept_bytes == 0


@pytest.mark.parametrize("n", [-1, 0, 1, 99])
async def test_any_acknowledgement_is_harmless(n: int) -> None:
    box = outbox()
    await box.put(Notice(text="a"))
    box.ack(n)
    box.ack(1)
    await box.put(Notice(text="b"))
    assert read_all(box) == [Notice(text="b")]


async def test_only_the_attached_reader_is_woken() -> None:
    box = outbox()
    woken: list[str] = []

    def first() -> None:
        woken.append("first")

    def second() -> None:
        woken.append("second")

    box.attach(first)
    await box.put(Notice(text="a"))
    box.attach(second)
    box.detach(first)
    await box.put(Notice(text="b"))
    box.detach(second)
    await box.put(Notice(text="c"))
    assert woken == ["first", "second"]


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(5):
        await asyncio.sleep(0)
