"""What others wrote is shown on one line, and nothing in it is obeyed."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.wire.text.foreign import escaped, foreign


@given(st.text(st.characters()))
def test_nothing_that_a_line_or_a_terminal_obeys_is_left(text: str) -> None:
    for shown in (escaped(text), foreign(text)):
        assert len(shown.splitlines()) <= 1
        shown.encode()  # No half of a pair, which no terminal can be sent.
        assert not any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in shown)
        assert not any(unicodedata.bidirectional(char) in BIDI for char in shown)


BIDI = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 日本 👍", '"plain é 日本 👍"'),
        ('a "b" \\n', '"a \\"b\\" \\\\n"'),
        ("a\nb\tc", '"a\\nb\\tc"'),
        ("\x1b[2J\x9b\u202e", '"\\x1b[2J\\x9b\\u202e"'),
        (b"bytes \xff", '"bytes \N{REPLACEMENT CHARACTER}"'),
    ],
)
def test_foreign_text_stands_in_quotes(text: str | bytes, shown: str) -> None:
    assert foreign(text) == shown


def test_it_is_cut_and_its_length_told() -> None:
    assert foreign("x" * 1000, max_chars=3) == '"xxx"… (1000 in all)'


def test_a_whole_text_keeps_its_lines() -> None:
    assert escaped("a\n\tb\x1b\r\n", keep_lines=True) == "a\n\tb\\x1b\\r\n"
