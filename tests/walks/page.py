"""What a chat page shows, and what an agent's memory must therefore hold. Pure.

A page is a list of exchanges; older versions of it can be picked again. A page of a client that
sends only what is new is a log: it cannot be changed, and nothing of it is sent again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

_CLI_OWN = ("<system-reminder>", "[Request interrupted by user")
_BLANKS = re.compile(r"\s+")


@dataclass(frozen=True)
class Exchange:
    """A message of the user and the answer that is shown to it."""

    said: str
    answer: str = ""
    is_stopped: bool = False
    """The answer was cut, somewhere: the page and the model may have different parts of it."""
    has_tool: bool = False


@dataclass
class Page:
    """`shown` is what is on it; `versions` what was on it before."""

    shown: list[Exchange] = field(default_factory=list)
    versions: list[list[Exchange]] = field(default_factory=list)

    def messages(self) -> list[dict[str, str]]:
        """As a client sends them."""
        out: list[dict[str, str]] = []
        for exchange in self.shown:
            out.append({"role": "user", "content": exchange.said})
            out.append({"role": "assistant", "content": exchange.answer})
        return out

    def branch(self, keep: int) -> None:
        """Remember what is shown, and keep the first exchanges of it."""
        self.versions.append(list(self.shown))
        del self.shown[keep:]

    def pick(self, version: int) -> None:
        """Show an older version; the one that is shown becomes one."""
        picked = self.versions[version]
        self.versions[version] = list(self.shown)
        self.shown = list(picked)

    def edit_answer(self, at: int, text: str) -> None:
        """Somebody wrote another answer."""
        self.versions.append(list(self.shown))
        self.shown[at] = replace(self.shown[at], answer=text, is_stopped=False)


@dataclass(frozen=True)
class Told:
    """One word of the conversation as a model call had it: who, and what."""

    role: str
    text: str


def told_by(body: Mapping[str, Any]) -> tuple[list[Told], int]:
    """What a model call had of the conversation, and how many results of tools."""
    told: list[Told] = []
    results = 0
    for message in body["messages"]:
        content = message["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for block in blocks:
            if block["type"] == "tool_result":
                results += 1
            if block["type"] != "text" or not block["text"].strip():
                continue
            if message["role"] == "user" and block["text"].lstrip().startswith(_CLI_OWN):
                continue
            if message["role"] == "assistant" and told and told[-1].role == "assistant":
                told[-1] = Told("assistant", told[-1].text + block["text"])
            else:
                told.append(Told(message["role"], block["text"]))
    return told, results


def difference(shown: Sequence[Exchange], told: Sequence[Told]) -> str | None:
    """How a model call differs from the page, whose last exchange it is for; None: not at all."""
    left = list(told)
    for i, exchange in enumerate(shown):
        if not left or left[0].role != "user":
            return f"message {i} is not there: {exchange.said!r}"
        if not _same(left[0].text, exchange.said):
            return f"message {i} is {left[0].text!r}, not {exchange.said!r}"
        left.pop(0)
        answer = left.pop(0).text if left and left[0].role == "assistant" else ""
        if i < len(shown) - 1 and not _is_answer(answer, exchange):
            return f"answer {i} is {answer!r}, not {exchange.answer!r}"
    return f"nobody said {left[0]}" if left else None


def _same(one: str, other: str) -> bool:
    return _BLANKS.sub("", one) == _BLANKS.sub("", other)


def _is_answer(known: str, exchange: Exchange) -> bool:
    """A cut answer may be known further than it was shown, or have been lost on its way there."""
    if not exchange.is_stopped:
        return _same(known, exchange.answer)
    one, other = _BLANKS.sub("", known), _BLANKS.sub("", exchange.answer)
    return one.startswith(other) or other.startswith(one)
