"""Frames: a line each, joined and split without looking into the event."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.wire.errors import MalformedMessage
from infra.wire.events import Event, Notice, TextDelta, ThinkingDelta, encode_event
from infra.wire.frames import Frame, decode_frame, is_frame, join_frames, split_frames
from infra.wire.ids import Fence, TurnId
from infra.wire.link import Ping

NUMBERS = st.integers(min_value=0, max_value=2**63)
TEXTS = st.text(st.characters())
SPOKEN: st.SearchStrategy[Event] = st.one_of(
    TEXTS.map(lambda text: TextDelta(text=text)),
    TEXTS.map(lambda text: ThinkingDelta(text=text)),
    st.text().map(lambda text: Notice(text=text)),
)


@given(st.lists(st.tuples(NUMBERS, NUMBERS, SPOKEN), max_size=8))
def test_frames_survive_joining_and_splitting(spoken: list[tuple[int, int, Event]]) -> None:
    frames = [
        Frame(TurnId("turn_0"), Fence(fence), n, encode_event(event)) for fence, n, event in spoken
    ]
    assert list(split_frames(join_frames(frame.encode() for frame in frames))) == frames


def test_a_frame_and_a_message_are_told_apart_by_their_first_byte() -> None:
    assert is_frame(Frame(TurnId("turn_0"), Fence(1), 1, b"{}").encode())
    assert not is_frame(Ping().encode())


def test_nothing_is_no_frames() -> None:
    assert list(split_frames(b"")) == []


@pytest.mark.parametrize("line", [b"", b"turn", b"turn 1 2", b"turn x 1 {}", b"\xff 1 1 {}"])
def test_a_broken_line_is_malformed(line: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode_frame(line)
