"""What counts as a yes, and what does not."""

from __future__ import annotations

import pytest

from agent.approvals.replies import UserVerdict, replies_in

YES, ALWAYS, NO, UNCLEAR = UserVerdict.YES, UserVerdict.ALWAYS, UserVerdict.NO, UserVerdict.UNCLEAR


@pytest.mark.parametrize(
    ("words", "verdict", "kept"),
    [
        ("1", YES, ""),
        (" 1. ", YES, ""),
        ("Yes!", YES, ""),
        ("Ok, go ahead!", YES, ""),
        ("...", UNCLEAR, "..."),
        ("yes, no", UNCLEAR, "yes, no"),
        ("Go ahead.", YES, ""),
        ("2", ALWAYS, ""),
        ("yes, always", ALWAYS, ""),
        ("3", NO, ""),
        ("3) not today", NO, "not today"),
        ("No, use the other branch", NO, "No, use the other branch"),
        ("don’t", NO, ""),
        ("yes, if the tests pass", UNCLEAR, "yes, if the tests pass"),
        ("1. first tell me why\n2. then stop", UNCLEAR, "1. first tell me why\n2. then stop"),
        ("1 file only", UNCLEAR, "1 file only"),
        ("10", UNCLEAR, "10"),
        ("no one may read it", UNCLEAR, "no one may read it"),
        ("nothing of the kind", UNCLEAR, "nothing of the kind"),
        ("", UNCLEAR, ""),
    ],
)
def test_only_plain_words_are_a_yes(words: str, verdict: UserVerdict, kept: str) -> None:
    ((said, rest),) = replies_in(words, 1, has_always=True)
    assert (said, rest) == (verdict, kept)


@pytest.mark.parametrize(("words", "verdict"), [("2", NO), ("always", YES), ("3", UNCLEAR)])
def test_without_always_the_second_option_is_no(words: str, verdict: UserVerdict) -> None:
    assert replies_in(words, 1, has_always=False)[0].verdict is verdict


@pytest.mark.parametrize(
    ("words", "verdicts"),
    [
        ("yes", [YES, YES, YES]),
        ("A 1, B 3, c yes", [YES, NO, YES]),
        ("A: 1\nB: no", [YES, NO, UNCLEAR]),
        ("A yes, and B as well", [UNCLEAR] * 3),
        ("D 1", [UNCLEAR] * 3),
        ("A day later, yes", [UNCLEAR] * 3),
    ],
)
def test_several_calls_are_answered_together_or_each(
    words: str, verdicts: list[UserVerdict]
) -> None:
    assert [reply.verdict for reply in replies_in(words, 3, has_always=True)] == verdicts
