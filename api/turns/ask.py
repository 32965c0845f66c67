"""A request for a turn, free of any dialect: who asks what of which conversation."""

from __future__ import annotations

from dataclasses import dataclass

from api.http.auth import Caller
from api.turns.repeats import Repeat
from infra.wire.turns import (
    ContentBlock,
    HistoryMessage,
    Lane,
    OnDisconnect,
)

Blocks = tuple[ContentBlock, ...]


@dataclass(frozen=True)
class Prompt:
    """What of a turn comes from the messages."""

    system_prompt: str | None
    history: tuple[HistoryMessage, ...]
    prompt: Blocks
    sent: tuple[str, ...]
    """Digests of what the user said, one for each of their turns, the prompt last."""
    has_answers: bool
    """The client sent answers along, if only empty ones."""
    answers: tuple[str, ...]
    """Text of the answer after each of the user's turns but the last."""
    begins: tuple[int, ...] = ()
    """Where in the history each of those turns begins."""
    tails: tuple[str, ...] = ()
    """Digests under which the prompt may come back."""


@dataclass(frozen=True)
class Ask:
    """A request that was found good."""

    caller: Caller
    model: str
    """The real id, aliases resolved."""
    prompt: Prompt
    asked_model: str | None = None
    """What the client called it."""
    name: str | None = None
    is_thin: bool = False
    """The client may be one that sends only what is new."""
    on_disconnect: OnDisconnect = OnDisconnect.CANCEL
    size: int = 0
    """Bytes of its body."""
    repeat: Repeat | None = None
    is_streamed: bool = False
    lane: Lane = Lane.AGENT
    max_tokens: int | None = None
    """Bound of a side request's answer."""
    profile: str | None = None
    """The egress profile it asks for."""
