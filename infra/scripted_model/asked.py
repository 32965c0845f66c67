"""A request of the Messages API, as the scripted model reads it. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Json = Mapping[str, Any]
"""A JSON object of the Messages API, unchecked: the script reads what it needs."""

_REMINDER = re.compile(r"<system-reminder>.*?</system-reminder>", re.DOTALL)
_REST = "Your response above was cut off mid-stream"
_NUDGES = (
    "Output token limit hit",
    "Your response was cut off because it exceeded the output token limit",
    "Your response above was ",
    "Your tool call was malformed",
)
"""How the CLI asks for the rest of an answer."""


@dataclass(frozen=True)
class Asked:
    """One request.

    `attempt` counts the requests with the same messages, this one included; calling it is what
    counts, so steps without a memory do not pay for one.
    """

    body: Json
    headers: Mapping[str, str]
    attempt: Callable[[], int]

    @property
    def messages(self) -> Sequence[Json]:
        messages: Sequence[Json] = self.body.get("messages") or ()
        return messages

    @property
    def tools(self) -> Sequence[Json]:
        tools: Sequence[Json] = self.body.get("tools") or ()
        return tools

    @property
    def tool_names(self) -> Sequence[str]:
        return [tool.get("name", "?") for tool in self.tools]

    @property
    def is_forced(self) -> bool:
        """Whether the answer has to be a call of one tool."""
        choice = self.body.get("tool_choice")
        return isinstance(choice, dict) and choice.get("type") == "tool"


@dataclass(frozen=True)
class Prompt:
    """The newest words of a person, and how many assistant messages came after them."""

    text: str
    answered: int


def find_prompt(messages: Sequence[Json]) -> Prompt:
    """The prompt to act out; an empty one when there is none."""
    answered = 0
    for message in reversed(messages):
        if message.get("role") == "assistant":
            answered += 1
        elif said := said_by_person(message):
            return Prompt(said, answered)
    return Prompt("", answered)


def said_by_person(message: Json) -> str:
    """The newest text of a user message that its client did not add itself.

    The CLI's own blocks (reminders, command output, interruption notes) begin with `<` or `[`; a
    message that was cut is followed by its wish to go on.
    """
    own = all_said_by_person(message)
    return own[-1] if own else ""


def all_said_by_person(message: Json) -> list[str]:
    """All such texts: what got no answer stands before the newest one, in the same message."""
    if message.get("role") != "user":
        return []
    return [t for t in map(_without_reminders, texts_of(message)) if t and not _is_of_client(t)]


def _is_of_client(said: str) -> bool:
    return said[0] in "<[" or said.startswith(_NUDGES)


def said_since_prompt(messages: Sequence[Json]) -> str:
    """The model's own text since the newest prompt."""
    said: list[str] = []
    for message in reversed(messages):
        if message.get("role") == "assistant":
            said[:0] = texts_of(message)
        elif said_by_person(message):
            break
    return "".join(said)


def told_by_tool(message: Json) -> tuple[str, bool] | None:
    """The first tool result of a message, as text, and whether it is an error."""
    for block in blocks_of(message):
        if block.get("type") == "tool_result":
            content = block.get("content") or ""
            told = content if isinstance(content, str) else " ".join(map(_as_text, content))
            return _without_reminders(told), bool(block.get("is_error"))
    return None


def asks_for_rest(message: Json) -> bool:
    """Whether the CLI asks for the rest of an answer that was cut off."""
    return any(text.startswith(_REST) for text in map(_without_reminders, texts_of(message)))


def _without_reminders(said: str) -> str:
    return _REMINDER.sub("", said).strip() if "<system-reminder>" in said else said.strip()


def blocks_of(message: Json) -> Sequence[Json]:
    """A message's content as blocks; none if it is plain text."""
    content = message.get("content")
    return content if isinstance(content, list) else ()


def texts_of(message: Json) -> Sequence[str]:
    """The texts of a message, in order."""
    content = message.get("content")
    if isinstance(content, str):
        return [content]
    return [block.get("text", "") for block in blocks_of(message) if block.get("type") == "text"]


def _as_text(block: Json) -> str:
    return str(block.get("text") or f"[{block.get('type')}]")
