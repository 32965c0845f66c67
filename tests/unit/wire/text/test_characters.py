"""Half a character is joined with its other half, or marked."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.wire.link import TranscriptAppend, TranscriptPart
from infra.wire.text.characters import LOST, Pieces, whole

SMILE = "\U0001f600"
HIGH, LOW = "\ud83d", "\ude00"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("plain", "plain"),
        (SMILE, SMILE),
        (HIGH + LOW, SMILE),
        (LOW + HIGH, LOST + LOST),
        (f"a{HIGH}b{LOW}", f"a{LOST}b{LOST}"),
    ],
)
def test_halves_that_belong_together_are_joined(text: str, told: str) -> None:
    assert whole(text) == told


@given(st.text(st.characters() | st.sampled_from([HIGH, LOW])), st.integers(1, 5))
def test_pieces_tell_the_whole_text_wherever_it_is_cut(text: str, size: int) -> None:
    pieces = Pieces()
    told = [pieces.add(text[at : at + size]) for at in range(0, len(text), size)]
    said = "".join(told) + pieces.end()
    assert said == whole(text)
    said.encode()


def test_a_message_that_holds_half_a_character_can_be_sent() -> None:
    """A transcript holds what the model said, and its tools; unsent, it ended the agent."""
    entry = {"uuid": "u", "text": f"cut {HIGH}"}
    sent = TranscriptAppend(seq=1, sdk_session="s", part=TranscriptPart(entries=(entry,))).encode()
    assert json.loads(sent)["part"]["entries"][0]["text"] == f"cut {LOST}"
    assert json.loads(sent)["type"] == "transcript_append"
