"""A chain is the same for the same chat, and for no other."""

from __future__ import annotations

from typing import Any

import pytest

from api.turns.chain import HEAD_CHARS, AnswerHead, chain, head_of, last_chains, without_moments


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


@pytest.mark.parametrize(
    ("one", "another"),
    [
        (
            "Current time is 09:59:58. Today's date is 2026-11-30.",
            "Current time is 10:00:04. Today's date is 2026-12-01.",
        ),
        ("It is Monday, November 30, 2026 at 9:59 AM.", "It is Tuesday, May 1, 2027 at 12:00 p.m."),
        ("now: 2026-11-30T09:59:58.123+01:00", "now: 2026-12-01T10:00:00.001+02:00"),
        ("Heute: 30.11.2026", "Heute: 1.12.2026"),
        ("date 11/30/26 (1796051734)", "date 12/1/26 (1796138134)"),
        ("Today is Sunday", "Today is Wednesday"),
    ],
)
def test_a_clock_in_the_system_prompt_does_not_hide_a_chat(one: str, another: str) -> None:
    """Home Assistant's carries one: each turn started a container of its own."""
    prompts = [f"You control a home.\n{line}\nBe brief." for line in (one, another)]
    assert len({chain(prompt, ("a",), "x") for prompt in prompts}) == 1


@pytest.mark.parametrize(
    "text",
    ["You may use 5 tools.", "Version 2.1 of the house", "Room 12, second floor", "Be kind."],
)
def test_what_is_no_date_counts_in_full(text: str) -> None:
    assert without_moments(text) == text
