"""An agent's bytes become lines: however they arrive, and never more of them than is allowed."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.wire.errors import MalformedMessage
from infra.wire.link import (
    ANSWER_MAX_BYTES,
    FRAME_MAX_BYTES,
    GREETING_MAX_BYTES,
    LINE_MAX_BYTES,
    TRANSCRIPT_HEAD,
    TRANSCRIPT_LINE_MAX_BYTES,
)
from worker.lines import LARGE_AT_ONCE, CutLine, HeldLines, LineCutter

MB = 1024 * 1024


class Holder:
    """Someone whose line is under way."""

    def __init__(self, held: HeldLines, *, is_greeted: bool = True) -> None:
        self.is_dropped = False
        self.cutter = LineCutter(self, held)
        self.cutter.is_greeted = is_greeted

    def drop_line(self) -> None:
        self.is_dropped = True
        self.cutter.drop()

    def feed(self, data: bytes) -> list[bytes]:
        return list(self.cutter.feed(data))


@given(st.lists(st.binary(max_size=12), max_size=8), st.lists(st.integers(1, 9), min_size=1))
def test_lines_are_the_same_however_the_bytes_arrive(said: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(line + b"\n" for line in said)
    holder, got = Holder(HeldLines()), []
    at = step = 0
    while at < len(stream):
        size = cuts[step % len(cuts)]
        got += holder.feed(stream[at : at + size])
        at, step = at + size, step + 1
    assert got == stream.split(b"\n")[:-1]


@pytest.mark.parametrize(
    ("begins", "longest", "is_greeted"),
    [
        (b'{"type":"welcome"', GREETING_MAX_BYTES, False),
        (TRANSCRIPT_HEAD, GREETING_MAX_BYTES, False),
        (b"turn_1 1 1 ", GREETING_MAX_BYTES, False),
        (b'{"type":"refused"', ANSWER_MAX_BYTES, True),
        (b'{ "type":"transcript_append"', ANSWER_MAX_BYTES, True),
        (b"turn_1 1 1 ", FRAME_MAX_BYTES, True),
    ],
)
def test_a_line_may_be_as_long_as_its_kind(begins: bytes, longest: int, is_greeted: bool) -> None:
    held = HeldLines()
    fits = Holder(held, is_greeted=is_greeted)
    fits.feed(begins + b"x" * (longest - len(begins)))
    assert len(fits.feed(b"\n")[0]) == longest

    too_long = Holder(held, is_greeted=is_greeted)
    with pytest.raises(MalformedMessage, match=str(longest)):
        too_long.feed(begins + b"x" * (longest - len(begins) + 1))


def test_transcript_entries_nobody_would_keep_are_read_past() -> None:
    """Not an offence: an honest session can grow so long. Its beginning says whose it was."""
    holder, piece = Holder(held := HeldLines()), b"x" * MB
    holder.feed(TRANSCRIPT_HEAD)
    for _ in range(TRANSCRIPT_LINE_MAX_BYTES // MB + 1):
        assert holder.feed(piece) == []
    assert held.held_bytes == 0
    (cut, after) = holder.feed(b'}\n{"type":"pong"}\n')
    assert isinstance(cut, CutLine)
    assert cut.startswith(TRANSCRIPT_HEAD)
    assert not isinstance(after, CutLine)

    holder.feed(TRANSCRIPT_HEAD)
    for _ in range(LINE_MAX_BYTES // MB - 1):
        assert holder.feed(piece) == []
    with pytest.raises(MalformedMessage):
        holder.feed(2 * piece)


def test_a_line_in_tiny_pieces_takes_no_more_than_its_bytes() -> None:
    """A list of pieces took an object for each: twenty times the line, for who sends slowly."""
    holder = Holder(HeldLines())
    tracemalloc.start()
    holder.feed(b"turn 1 1 ")
    for i in range(100_000):
        holder.feed(b"%d" % (10 + i % 90))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * 200_000


def test_of_too_many_long_lines_the_oldest_is_dropped() -> None:
    """An honest one is under way for milliseconds; one that is never finished blocks nobody."""
    held = HeldLines(growing_max_bytes=3 * MB)
    stuck, honest, late = (Holder(held) for _ in range(3))
    stuck.feed(TRANSCRIPT_HEAD + b"x" * 2 * MB)
    honest.feed(TRANSCRIPT_HEAD + b"x" * (MB // 2))
    late.feed(TRANSCRIPT_HEAD + b"x" * MB)

    assert (stuck.is_dropped, honest.is_dropped, late.is_dropped) == (True, False, False)
    assert len(honest.feed(b"}\n")) == 1
    late.feed(b"}\n")
    assert held.held_bytes == 0


def test_what_waits_to_be_stored_takes_no_room_of_lines_that_are_under_way() -> None:
    """Four of the longest once filled the one bound of both: then each long line was dropped, and
    with it the link of an honest agent."""
    held = HeldLines()
    waits = [held.wait(TRANSCRIPT_LINE_MAX_BYTES) for _ in range(4)]
    assert waits == [True] * LARGE_AT_ONCE + [False] * (4 - LARGE_AT_ONCE)
    honest = Holder(held)
    honest.feed(TRANSCRIPT_HEAD + b"x" * MB)
    assert not honest.is_dropped
    assert len(honest.feed(b"}\n")) == 1
    for _ in range(LARGE_AT_ONCE):
        held.done(TRANSCRIPT_LINE_MAX_BYTES)
    assert held.held_bytes == 0
    assert held.wait(TRANSCRIPT_LINE_MAX_BYTES)
