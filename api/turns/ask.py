"""A request for a turn, free of any dialect: who asks what of which conversation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from api.http.auth import Caller
from api.turns.repeats import Repeat
from infra.wire.history import digest, tails
from infra.wire.options import NO_OPTIONS, ConversationOptions
from infra.wire.turns import (
    ContentBlock,
    HistoryMessage,
    Lane,
    OnDisconnect,
    TextBlock,
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


def prompt_of(
    said: Sequence[HistoryMessage],
    begins: Sequence[int],
    *,
    system_prompt: str | None = None,
    has_answers: bool = False,
) -> Prompt:
    """The prompt of what was said in a conversation so far.

    `begins` is where in `said` each turn of the user begins, the last one being the prompt; there
    is at least one.
    """
    spans = list(pairwise([*begins, len(said)]))
    turns = [_blocks_of(said[begin:end], "user") for begin, end in spans]
    answers = [_blocks_of(said[begin:end], "assistant") for begin, end in spans[:-1]]
    return Prompt(
        system_prompt=system_prompt,
        history=tuple(said[: begins[-1]]),
        prompt=turns[-1],
        sent=tuple(map(digest, turns)),
        has_answers=has_answers,
        answers=tuple(
            "".join(block.text for block in answer if isinstance(block, TextBlock))
            for answer in answers
        ),
        begins=tuple(begins[:-1]),
        tails=tails(turns[-1]),
    )


def _blocks_of(messages: Iterable[HistoryMessage], role: str) -> Blocks:
    return tuple(block for m in messages if m.role == role for block in m.content)


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
    options: ConversationOptions = NO_OPTIONS
    """What it chooses for its conversation."""
