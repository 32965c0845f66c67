"""A chain is the same for the same chat, and for no other."""

from __future__ import annotations

import pytest

from api.chain import HEAD_CHARS, AnswerHead, chain, head_of


@pytest.mark.parametrize("parts", [["one two\n"], ["o", "ne", " ", "t", "wo"], [" one\ttwo "]])
def test_head_is_the_same_however_the_answer_came(parts: list[str]) -> None:
    head = AnswerHead()
    for part in parts:
        head.add(part)
    assert head.text == head_of("one two") == "onetwo"


def test_head_of_a_long_answer_is_that_of_its_cut_version() -> None:
    answer = "".join(f"word{n} " for n in range(100))
    assert head_of(answer) == head_of(answer[:200])
    head = AnswerHead()
    head.add(answer)
    assert head.is_full
    head.add("more")
    assert len(head.text) == HEAD_CHARS


def test_chain_differs_by_whatever_was_said() -> None:
    chains = {
        chain(None, ("a", "b"), "x"),
        chain("s", ("a", "b"), "x"),
        chain(None, ("a",), "x"),
        chain(None, ("b", "a"), "x"),
        chain(None, ("a", "b"), "y"),
        chain("a", ("b",), "x"),
    }
    assert len(chains) == 6
    assert chain("", ("a",), "x") == chain(None, ("a",), "x")
