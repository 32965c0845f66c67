"""What the next turn stands on, for every way clients send history."""

from __future__ import annotations

import pytest

from infra.wire.history.answers import HEAD_CHARS
from infra.wire.history.decision import (
    GO_ON,
    TAILS_MAX,
    Accepted,
    Base,
    Continue,
    Fresh,
    Rewind,
    decide,
    digest,
    tails,
)
from infra.wire.ids import TurnId
from infra.wire.turns import ContentBlock, ImageBlock, TextBlock


def memory(digests: str, *, without: str = "") -> list[Accepted]:
    """One accepted prompt per letter; those in `without` have no checkpoint."""
    return [
        Accepted(digest=d, turn=TurnId(f"t-{d}"), checkpoint=None if d in without else f"end-{d}")
        for d in digests
    ]


@pytest.mark.parametrize(
    ("known", "sent", "base"),
    [
        ("", "a", Continue()),
        ("a", "ab", Continue()),
        ("ab", "abc", Continue()),
        ("ab", "ab", Rewind(keep=1, checkpoint="end-a")),
        ("a", "a", Fresh()),
        ("abc", "abx", Rewind(keep=2, checkpoint="end-b")),
        ("abc", "ax", Rewind(keep=1, checkpoint="end-a")),
        ("abc", "xbc", Fresh()),
        ("ab", "abcd", Continue(restores=True)),
        ("a", "abc", Continue(restores=True)),
        ("abc", "axcd", Rewind(keep=1, checkpoint="end-a", restores=True)),
        ("", "ab", Fresh()),
        ("", "abc", Fresh()),
        ("ab", "x", Fresh()),
    ],
)
def test_full_history_clients(known: str, sent: str, base: Base) -> None:
    assert decide(memory(known), list(sent), is_thin=False, resends=True) == base


@pytest.mark.parametrize(
    ("known", "sent", "resends", "base"),
    [
        ("a", "b", False, Continue()),
        ("ab", "c", False, Continue()),
        ("a", "a", False, Fresh()),  # The same lone message again: a regenerate.
        ("ab", "x", True, Fresh()),  # It has resent history: an edit of the first message.
        ("ab", "abc", False, Continue()),
    ],
)
def test_thin_clients_append(known: str, sent: str, resends: bool, base: Base) -> None:
    assert decide(memory(known), list(sent), is_thin=True, resends=resends) == base


def test_without_a_checkpoint_a_branch_starts_fresh() -> None:
    assert decide(memory("ab", without="a"), ["a", "b"], is_thin=False, resends=True) == Fresh()


def test_what_cannot_be_gone_back_to_is_restored_behind_what_can() -> None:
    known = memory("abc", without="b")
    base = Rewind(keep=1, checkpoint="end-a", restores=True)
    assert decide(known, list("abx"), is_thin=False, resends=True) == base


@pytest.mark.parametrize(
    ("shown", "base"),
    [
        (["A", "B"], Continue()),
        (["A", "another"], Rewind(keep=1, checkpoint="end-a", restores=True)),
        (["another", "B"], Fresh()),
        (["A"], Continue()),  # From an API that does not send them yet.
        (["A", "B and something behind it"], Continue()),
        (["A", ""], Continue()),  # It was stopped before its first word.
    ],
)
def test_an_answer_that_is_not_the_shown_one_is_not_gone_on_from(
    shown: list[str], base: Base
) -> None:
    """Another version of it was picked, or somebody edited it: the page is the truth."""
    known = [a.model_copy(update={"heads": (a.digest.upper(),)}) for a in memory("ab")]
    assert decide(known, list("abc"), is_thin=False, resends=True, answers=shown) == base


def test_digest_forgives_blanks_but_not_words() -> None:
    def one(text: str) -> tuple[ContentBlock, ...]:
        return (TextBlock(text=text),)

    assert digest(one("1\r\n2  3\n")) == digest(one("1\n2 3"))
    assert digest(one("1 2")) != digest(one("12"))
    assert digest((TextBlock(text="a"), TextBlock(text="b"))) != digest(one("ab"))
    picture = ImageBlock(media_type="image/png", data="AAAA")
    assert digest((*one("a"), picture)) != digest(one("a"))


def test_a_lone_message_after_a_doubtful_first_one_starts_fresh() -> None:
    doubtful = [Accepted(digest="", turn=TurnId("t"))]
    assert decide(doubtful, ["a"], is_thin=True, resends=False) == Fresh()


FOUND = """### Task:
Respond to the user query using the provided context.
<context>
<source id="1" name="a.txt">some text</source>
</context>
"""


def text_of(text: str) -> tuple[ContentBlock, ...]:
    return (TextBlock(text=text),)


@pytest.mark.parametrize("between", ["", "\n", "### Output:\nAnswer briefly.\n\n"])
def test_a_message_comes_back_without_what_was_found_for_it(between: str) -> None:
    """Open WebUI puts a file's text before the newest message only. With each following turn the
    agent forgot all that its tools had found."""
    written = "what is in it?\n\nsecond paragraph"
    prompt = text_of(FOUND + between + written)
    known = [Accepted(digest=digest(prompt), tails=tails(prompt), turn=TurnId("t"))]
    for sent in (digest(text_of(written)), digest(prompt)):
        base = decide(known, [sent, "next"], is_thin=False, resends=True)
        assert base == Continue()
    other = digest(text_of("paragraph"))
    assert decide(known, [other, "next"], is_thin=False, resends=True) == Fresh()


def test_only_what_was_found_is_left_out() -> None:
    assert tails(text_of("### Task: and so on\nwords")) == ()
    assert tails(text_of(FOUND)) == ()
    picture = ImageBlock(media_type="image/png", data="AAAA")
    assert tails((*text_of(FOUND + "x"), picture)) == (digest((*text_of("x"), picture)),)
    assert len(tails(text_of(FOUND + "x\n" * 100))) == TAILS_MAX


def gone_on(*parts: str | None, without: int | None = None) -> list[Accepted]:
    """A prompt whose answer came in these parts, and one more with the answer B."""
    asked = ["a", *[digest([TextBlock(text=GO_ON)])] * (len(parts) - 1), "b"]
    return [
        Accepted(
            digest=said,
            turn=TurnId(f"t-{i}"),
            checkpoint=None if i == without else f"end-{i}",
            heads=None if head is None else (head,),
        )
        for i, (said, head) in enumerate(zip(asked, [*parts, "B"], strict=True))
    ]


LONG = "x" * HEAD_CHARS


@pytest.mark.parametrize(
    ("known", "shown", "base"),
    [
        # Both parts are on the page, as one answer.
        (gone_on("one", "two")[:2], ["onetwo"], Continue()),
        (gone_on("one", "two", "three")[:3], ["onetwothree"], Continue()),
        (gone_on("one", "two"), ["onetwo", "B"], Continue()),
        (gone_on(LONG, "two")[:2], [LONG], Continue()),
        (gone_on("one", None)[:2], ["onetwo"], Continue()),
        (gone_on("one", "two")[:2], [], Continue()),  # From an API that does not send them yet.
        # The last part is not, or another one is.
        (gone_on("one", "two")[:2], ["one"], Rewind(keep=1, checkpoint="end-0")),
        (gone_on("one", "two", "three")[:3], ["onetwo"], Rewind(keep=2, checkpoint="end-1")),
        (gone_on("one", "two")[:2], ["one and more"], Fresh()),
        # What follows is told apart by the turns that are shown, not by the agent's.
        (
            gone_on("one", "two"),
            ["onetwo", "other"],
            Rewind(keep=2, checkpoint="end-1", restores=True, shown=1),
        ),
        (gone_on("one", "two", without=1), ["onetwo", "other"], Fresh()),
    ],
)
def test_an_answer_that_was_gone_on_with_is_one_answer(
    known: list[Accepted], shown: list[str], base: Base
) -> None:
    """The turn after a "Continue" went back to before it: the agent forgot what it had added."""
    sent = ["a", "b"][: max(1, len(shown))]
    decided = decide(known, [*sent, "next"], is_thin=False, resends=True, answers=shown)
    assert decided == base


def test_to_go_on_once_more_goes_on_from_both_parts() -> None:
    go_on = digest([TextBlock(text=GO_ON)])
    known = gone_on("one", "two")[:2]
    for shown, base in (
        (["onetwo"], Continue()),
        (["one"], Rewind(keep=1, checkpoint="end-0")),  # The last part is redone.
    ):
        decided = decide(known, ["a", go_on], is_thin=False, resends=True, answers=shown)
        assert decided == base


def test_a_person_may_say_the_very_words_of_a_continue() -> None:
    go_on = digest([TextBlock(text=GO_ON)])
    known = gone_on(LONG, "two")[:2]
    decided = decide(known, ("a", go_on, "n"), is_thin=False, resends=True, answers=[LONG, "two"])
    assert decided == Continue()
