"""The oracle of the walks sees what must not be, and forgives what may."""

from __future__ import annotations

from typing import Any

import pytest

from tests.walks.page import Exchange, Page, difference, told_by

SHOWN = [Exchange("a", "A"), Exchange("b", "B c", is_stopped=True), Exchange("d")]


def body(*messages: tuple[str, str]) -> dict[str, Any]:
    return {
        "messages": [
            {"role": role, "content": [{"type": "text", "text": text}]} for role, text in messages
        ]
    }


def wrong(*messages: tuple[str, str]) -> str | None:
    return difference(SHOWN, told_by(body(*messages))[0])


@pytest.mark.parametrize("cut", ["B c", "B", "B c d e"])
def test_the_page_is_what_was_told(cut: str) -> None:
    assert (
        wrong(
            ("user", "a"),
            ("assistant", "A"),
            ("user", "<system-reminder>x</system-reminder>"),
            ("user", "b"),
            ("assistant", cut),
            ("user", "[Request interrupted by user]"),
            ("user", "d"),
        )
        is None
    )


@pytest.mark.parametrize(
    ("told", "what"),
    [
        ((("user", "a"), ("assistant", "A"), ("user", "d")), "message 1"),
        ((("user", "a"), ("assistant", "Z"), ("user", "b"), ("user", "d")), "answer 0"),
        ((("user", "a"), ("user", "b"), ("user", "d")), "answer 0"),
        (
            (("user", "a"), ("assistant", "A"), ("user", "b"), ("user", "d"), ("user", "x")),
            "nobody",
        ),
        (
            (
                ("user", "a"),
                ("assistant", "A"),
                ("user", "b"),
                ("assistant", "No response requested."),
                ("user", "d"),
            ),
            "answer 1",
        ),
    ],
)
def test_what_is_lost_or_nobody_said_is_seen(told: tuple[tuple[str, str], ...], what: str) -> None:
    assert (wrong(*told) or "").startswith(what)


def test_versions_of_a_page_can_be_picked_again() -> None:
    page = Page([Exchange("a", "A"), Exchange("b", "B")])
    page.branch(1)
    page.shown.append(Exchange("c", "C"))
    page.pick(0)
    assert [exchange.said for exchange in page.shown] == ["a", "b"]
    page.pick(0)
    page.edit_answer(0, "Z")
    assert [m["content"] for m in page.messages()] == ["a", "Z", "c", "C"]
