"""A chain is the same for the same chat, and for no other."""

from __future__ import annotations

from typing import Any

import pytest

from api.chain import HEAD_CHARS, AnswerHead, chain, head_of, last_chains


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


class Counted(tuple[str, ...]):
    """Counts what is taken out of it."""

    taken = 0

    def __getitem__(self, at: Any) -> Any:
        out = super().__getitem__(at)
        self.taken += len(out) if isinstance(at, slice) else 1
        return out


def test_long_history_is_read_twice_at_most() -> None:
    """One chain for each of 8,000 turns, of which two were used, took the event loop 8 s."""
    sent, answers = Counted(f"{n}" for n in range(8_001)), [f"to {n}" for n in range(8_000)]
    assert last_chains("s", sent, answers) == (
        chain("s", tuple(sent)[:8_000], "to7999"),
        chain("s", tuple(sent)[:7_999], "to7998"),
    )
    assert sent.taken <= 2 * len(sent)
    assert last_chains(None, ("a", "b"), ("x",)) == (chain(None, ("a",), "x"), None)
