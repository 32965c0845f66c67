"""How an answer begins: what tells two answers to the same message apart. Pure.

A client sends the answers it shows back, and some of them are not what the agent said last: another
version was picked, or a person edited one. So the agent tells the head of each answer with its end,
and the next request's answers are compared with it. Blanks do not count, nor what clients and this
service add for display. An answer that was cut, or got something behind it, still agrees.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from infra.wire.events import (
    Event,
    Notice,
    TextDelta,
    ThinkingDelta,
    ToolCall,
    ToolResult,
)

HEAD_CHARS = 200
"""So many characters that are no blanks are compared."""

HEADS_MAX = 2
"""An answer has one for each way it may be shown."""

_READ_CHARS = 4 * HEAD_CHARS
"""Of a shown answer, so much is read in one piece; more only where it is mostly blanks."""

_ADDED = re.compile(
    r"<think>.*?(?:</think>|\Z)"
    r'|<details type="(?:reasoning|tool_calls|code_interpreter)".*?(?:</details>|\Z)',
    re.DOTALL,
)
"""Where chat programs show thinking and tools inside of an answer."""

_CUT_MARKS = ".…"


class Head:
    """Gathers the head of a text that comes in pieces, without blanks."""

    def __init__(self, max_chars: int = HEAD_CHARS) -> None:
        self._max_chars = max_chars
        self._head = ""

    @property
    def is_full(self) -> bool:
        """More text changes nothing."""
        return len(self._head) >= self._max_chars

    @property
    def text(self) -> str:
        """The head so far."""
        return self._head

    def add(self, text: str) -> None:
        """More of the text."""
        if not self.is_full:
            self._head = (self._head + "".join(text.split()))[: self._max_chars]


class ToldHeads:
    """The heads of an answer as its events tell it: of its text alone, and of all there is to see.

    A deployment may show thinking and tools inside of the answer's text.
    """

    def __init__(self) -> None:
        self._text = Head()
        self._all = Head()

    def add(self, event: Event) -> None:
        """The next event."""
        if self._text.is_full and self._all.is_full:
            return
        match event:
            case TextDelta(text=text):
                self._text.add(text)
                self._all.add(text)
            case ThinkingDelta(text=text):
                self._all.add(text)
            case _ if line := describe(event):
                self._all.add(line)

    @property
    def heads(self) -> tuple[str, ...]:
        """Both, or one where they are the same."""
        return tuple(dict.fromkeys((self._text.text, self._all.text)))


def shown_head(text: str) -> str:
    """The head of an answer as a client sends it back."""
    head = Head()
    shown = _ADDED.sub("", text) if "<" in text[:_READ_CHARS] else text
    for begin in range(0, len(shown), _READ_CHARS):
        head.add(shown[begin : begin + _READ_CHARS])
        if head.is_full:
            break
    return head.text


def agree(told: Sequence[str] | None, shown: str | None) -> bool:
    """Whether a shown head may be that of an answer with these heads; None: nobody knows."""
    if told is None or shown is None:
        return True
    return any(_agree(head, shown) for head in told)


def _agree(told: str, shown: str) -> bool:
    if told.startswith(shown) or (told and shown.startswith(told)):
        return True
    cut = shown.rstrip(_CUT_MARKS)
    return bool(cut) and told.startswith(cut)


def describe(event: Event) -> str | None:
    """One readable line for what the agent does; None for events that are not shown."""
    match event:
        case ToolCall():
            line = f"{event.name}: {event.summary}" if event.summary else event.name
        case ToolResult():
            sign = "✗" if event.is_error else "→"
            line = f"{event.name} {sign} {event.summary}".rstrip()
        case Notice():
            return event.text
        case _:
            return None
    return f"  {line}" if event.parent else line
