"""What the scripted model can say, as values: the script makes them, the server sends them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


@dataclass(frozen=True)
class Text:
    """A text block; each piece becomes one delta. `opening` stands in the block's start already."""

    pieces: tuple[str, ...]
    opening: str = ""


@dataclass(frozen=True)
class Thinking:
    """A thinking block; each piece becomes one delta."""

    pieces: tuple[str, ...]


@dataclass(frozen=True)
class ToolUse:
    """A call of one of the client's tools. The server gives it an id."""

    name: str
    input: Mapping[str, Any]


@dataclass(frozen=True)
class Raw:
    """Any block, as it is, and its deltas: those of server tools, and kinds nobody knows."""

    block: Mapping[str, Any]
    deltas: tuple[Mapping[str, Any], ...] = ()


Block = Text | Thinking | ToolUse | Raw


class Stop(StrEnum):
    """The Messages API's words for why a message ended."""

    END_TURN = "end_turn"
    TOOL_USE = "tool_use"
    MAX_TOKENS = "max_tokens"
    STOP_SEQUENCE = "stop_sequence"
    PAUSE_TURN = "pause_turn"
    COMPACTION = "compaction"
    REFUSAL = "refusal"
    CONTEXT_WINDOW = "model_context_window_exceeded"


class CutKind(StrEnum):
    """How a reply breaks off."""

    ERROR = "error"
    DROP = "drop"
    HANG = "hang"
    UNSAID = "unsaid"
    """No break: the stream ends well, but without the event that says why it stopped."""


@dataclass(frozen=True)
class Cut:
    """The reply breaks off after so many deltas, or after so many finished blocks.

    `status` is that of an error.
    """

    kind: CutKind
    after: int = 0
    status: int = 500
    blocks: int | None = None

    def is_due(self, *, deltas: int, blocks: int, before_delta: bool) -> bool:
        """Whether the reply breaks off now, before its next part."""
        if self.blocks is not None:
            return blocks == self.blocks
        return before_delta and deltas == self.after


@dataclass(frozen=True)
class Tokens:
    """Usage to report instead of a guess from the sizes."""

    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    thinking_tokens: int = 0
    """The part of the output that was thinking."""


@dataclass(frozen=True)
class Reply:
    """A message of the model.

    `wait_s` passes before its first byte, `pace_s` before each delta. The deltas of a `stamped`
    reply carry the time they were sent at.
    """

    blocks: tuple[Block, ...]
    stop: str = Stop.END_TURN
    wait_s: float = 0.0
    pace_s: float = 0.0
    stamped: bool = False
    first: int = 0
    """The number of the first stamped delta."""
    cut: Cut | None = None
    tokens: Tokens | None = None


@dataclass(frozen=True)
class Refusal:
    """An HTTP error instead of a message; `error` is its inner object, if not the usual one."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    error: Mapping[str, Any] | None = None


def words(text: str) -> tuple[str, ...]:
    """The text cut into words, each with the space before it; joined they are the text again."""
    pieces: list[str] = []
    start = 0
    for end in range(1, len(text)):
        if text[end].isspace() and not text[end - 1].isspace():
            pieces.append(text[start:end])
            start = end
    pieces.append(text[start:])
    return tuple(pieces)


def text(said: str, **how: Any) -> Reply:
    """A reply of one text block, one delta a word. `how`: further fields of the reply."""
    return Reply((Text(words(said)),), **how)
