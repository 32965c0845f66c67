"""Two answers are told apart by how they begin, whatever clients do to them on the way."""

from __future__ import annotations

import pytest

from infra.wire.events import Event, TextDelta, ThinkingDelta, ToolCall, ToolResult
from infra.wire.history.answers import HEAD_CHARS, ToldHeads, agree, shown_head

SONNET, HAIKU = "claude-sonnet-4-5-20250929", "claude-haiku-4-5-20251001"
LONG = "".join(f"word{n} " for n in range(300))


def told(*events: Event) -> tuple[str, ...] | None:
    heads = ToldHeads()
    for event in events:
        heads.add(event)
    return heads.heads


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (SONNET, SONNET),
        ("one\n\n  two ", "one two"),
        (LONG, LONG[:50]),  # Stopped: the page has less than was said.
        (LONG, LONG[:70] + "…"),
        (LONG, LONG[:70] + " ..."),
        (LONG, LONG[:400] + "[shortened]" + LONG[-50:]),
        ("one", "one\n\n*12 tokens/s*"),  # Something a filter put behind it.
        ("one", ""),
        ("", ""),
        ("one", "<think>\nwhat to say\n</think>\n\none"),
        ("one", '<details type="reasoning" done="true">\n> hm\n</details>\none'),
    ],
)
def test_the_same_answer_agrees(said: str, shown: str) -> None:
    assert agree(told(TextDelta(text=said)), shown_head(shown))


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (SONNET, HAIKU),
        ("x = 5", "x = -5"),
        (LONG, "(a summary of it)"),
        ("", "what somebody wrote in its place"),
    ],
)
def test_another_answer_does_not(said: str, shown: str) -> None:
    assert not agree(told(TextDelta(text=said)), shown_head(shown))


def test_where_nobody_knows_nothing_differs() -> None:
    assert agree(None, "one")
    assert agree(("one",), None)


def test_an_answer_shown_with_its_tools_agrees_too() -> None:
    """With `AGCLUSTER_TOOL_DISPLAY=text` thinking and tool lines stand in the answer."""
    heads = told(
        ThinkingDelta(text="hm "),
        ToolCall(id="1", name="Bash", summary="ls"),
        ToolResult(id="1", name="Bash", summary="ok, 1 line"),
        TextDelta(text="Here "),
        TextDelta(text="it is."),
    )
    assert agree(heads, shown_head("hm\n\nBash: ls\nBash → ok, 1 line\n\nHere it is."))
    assert agree(heads, shown_head("Here it is."))
    assert not agree(heads, shown_head("Bash: rm\n\nHere it is."))


@pytest.mark.parametrize(
    "mark",
    [
        "<think>\nhm\n</think>",
        '<details type="tool_calls" done="true">\nx\n</details>',
        '<details type="code_interpreter">',
    ],
)
@pytest.mark.parametrize("before", ["", "It writes ", "x" * (HEAD_CHARS - 1), "x" * HEAD_CHARS])
def test_an_answer_about_the_marks_themselves_agrees(mark: str, before: str) -> None:
    """What is taken out of it when it comes back is its own text."""
    said = f"{before}{mark} around what it thinks."
    heads = told(*(TextDelta(text=char) for char in said))
    assert agree(heads, shown_head(said))
    assert agree(heads, shown_head(said[:-5]))
    assert agree(told(ThinkingDelta(text=mark), TextDelta(text="x")), shown_head(mark + "x"))


def test_other_tags_are_told_as_they_are() -> None:
    assert told(TextDelta(text="<details><b>1</b> <think")) == ("<details><b>1</b><think",)
    far = told(TextDelta(text="x" * 2 * HEAD_CHARS + "<think>"))
    assert far == ("x" * HEAD_CHARS,)


def test_heads_are_bounded_however_the_answer_comes() -> None:
    pieces = told(*(TextDelta(text=word + " ") for word in LONG.split()))
    assert pieces is not None
    assert pieces == told(TextDelta(text=LONG)) == (shown_head(LONG),)
    assert len(pieces[0]) == HEAD_CHARS
    assert shown_head(" " * 10_000 + "x") == "x"
