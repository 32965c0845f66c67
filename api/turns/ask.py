"""A request for a turn, independent of any dialect: who asks what of which conversation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from api.http.auth import Caller
from api.turns.repeats import Repeat
from infra.wire.agents.delegation import Delegation
from infra.wire.agents.profile import AgentProfile
from infra.wire.agents.ref import AgentRef
from infra.wire.history.decision import digest, tails
from infra.wire.options import (
    NO_OPTIONS,
    NO_TURN_OPTIONS,
    ConversationOptions,
    TurnOptions,
)
from infra.wire.turns import (
    CallBlock,
    ContentBlock,
    HistoryMessage,
    Lane,
    OnDisconnect,
    TextBlock,
)

Blocks = tuple[ContentBlock, ...]


@dataclass(frozen=True)
class Prompt:
    """The part of a turn that comes from the messages."""

    system_prompt: str | None
    history: tuple[HistoryMessage, ...]
    prompt: Blocks
    sent: tuple[str, ...]
    """Digests of the user's messages, one for each turn, the prompt last."""
    has_answers: bool
    """Whether the client also sent answers, even if they are empty."""
    answers: tuple[str, ...]
    """The text of the answer to each of the user's turns except the last."""
    begins: tuple[int, ...] = ()
    """The index in the history where each of those turns begins."""
    tails: tuple[str, ...] = ()
    """Digests under which the prompt may come back."""
    closings: tuple[str, ...] = ()
    """What each of those answers is told apart by: its text or, if it ended with calls of the
    client's functions, the ids of the calls."""


def prompt_of(
    said: Sequence[HistoryMessage],
    begins: Sequence[int],
    *,
    system_prompt: str | None = None,
    has_answers: bool = False,
) -> Prompt:
    """The prompt of a conversation so far.

    `begins` has the index in `said` of each user turn; the last one is the prompt, and there is at
    least one.
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
        answers=tuple(map(_text_of, answers)),
        closings=tuple(call_ids(answer) or _text_of(answer) for answer in answers),
        begins=tuple(begins[:-1]),
        tails=tails(turns[-1]),
    )


def call_ids(answer: Blocks) -> str:
    """The ids of an answer's calls, joined; empty for an answer that ended with words."""
    return "".join(block.id for block in answer if isinstance(block, CallBlock))


def _text_of(answer: Blocks) -> str:
    return "".join(block.text for block in answer if isinstance(block, TextBlock))


def _blocks_of(messages: Iterable[HistoryMessage], role: str) -> Blocks:
    return tuple(block for m in messages if m.role == role for block in m.content)


@dataclass(frozen=True)
class Ask:
    """A valid request for a turn."""

    caller: Caller
    model: str
    """The real model id, with aliases resolved."""
    prompt: Prompt
    agent: AgentRef | None = None
    profile: AgentProfile | None = None
    """The agent that the client picked, and its profile; None for the usual one."""
    delegation: Delegation | None = None
    """The agents that it may call; None for none."""
    asked_model: str | None = None
    """The client's name for the model."""
    name: str | None = None
    is_thin: bool = False
    """Whether the client may be one that sends only its new message."""
    on_disconnect: OnDisconnect = OnDisconnect.CANCEL
    size: int = 0
    """The size of its body in bytes."""
    repeat: Repeat | None = None
    is_streamed: bool = False
    lane: Lane = Lane.AGENT
    options: ConversationOptions = NO_OPTIONS
    """The options that it chooses for its conversation."""
    turn_options: TurnOptions = NO_TURN_OPTIONS
    """The options that it chooses for its turn."""
    mcp_secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    """What its caller sends for the agent's MCP servers."""
