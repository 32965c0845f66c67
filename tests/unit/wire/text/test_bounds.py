"""Where an answer ends for its client."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from infra.wire.events import EndReason
from infra.wire.text.bounds import BYTES_PER_TOKEN, TextBounds


def shown(bounds: TextBounds, pieces: list[str]) -> list[str]:
    return [*(bounds.add(piece) for piece in pieces), bounds.release()]


@given(
    st.lists(st.text("abé", max_size=4), max_size=8),
    st.lists(st.text("abé", min_size=1, max_size=4), max_size=4),
)
@example(["éb", "a"], ["b", "éba"])
def test_pieces_show_what_the_whole_text_shows(pieces: list[str], stop: list[str]) -> None:
    bounds = TextBounds(stop=stop)
    text = "".join(pieces)
    found = [(text.find(one) + len(one), text.find(one)) for one in stop if one in text]
    assert "".join(shown(bounds, pieces)) == (text[: min(found)[1]] if found else text)
    assert bounds.ended is (EndReason.DONE if found else None)


def test_what_may_be_the_beginning_of_a_sequence_is_held_back() -> None:
    assert shown(TextBounds(stop=["END"]), ["one E", "N", "X"]) == ["one ", "", "ENX", ""]
    assert shown(TextBounds(stop=["END"]), ["one EN"]) == ["one ", "EN"]


@pytest.mark.parametrize("pieces", [["abcdefghij"], ["abcd", "efghij"], list("abcdefghij")])
def test_a_limit_cuts_in_mid_piece(pieces: list[str]) -> None:
    bounds = TextBounds(max_tokens=2)
    assert "".join(shown(bounds, pieces)) == "abcdefgh"
    assert bounds.ended is EndReason.LENGTH


def test_a_text_of_just_the_limit_is_whole() -> None:
    bounds = TextBounds(max_tokens=2)
    assert "".join(shown(bounds, ["abcdefgh"])) == "abcdefgh"
    assert bounds.ended is None


def test_no_character_is_cut_in_two() -> None:
    bounds = TextBounds(max_tokens=1)
    assert "".join(shown(bounds, ["aéé" + "é" * BYTES_PER_TOKEN])) == "aé"
