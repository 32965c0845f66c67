"""Agents that call agents: what a turn may ask of others, and how its agent asks.

A profile names the agents that its agent may call (`delegates`). The API finds out which of them
the caller may use, and the turn carries them (`Delegation`). The agent asks over its link; the
worker has the called agent work in a conversation of its own, and tells what it does and answers.

    agent -> worker   AskDelegate
    worker -> agent   DelegateDid · DelegateAnswered
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from infra.wire.agents.part import AgentName
from infra.wire.agents.ref import AgentRef
from infra.wire.base import Message
from infra.wire.events import ToolCall, ToolResult
from infra.wire.ids import ConversationKey, SaidTurn, TurnId

DELEGATE_TOOL = "delegate"
"""The tool with which an agent calls another one."""
TASK_MAX_BYTES = 12 * 1024
"""Of a task, as JSON: it fits into one line of the link (`infra.wire.link.ANSWER_MAX_BYTES`)."""
ANSWER_MAX_CHARS = 40_000
"""Of a called agent's answer. A CLI puts a longer result into a file."""
REACHED_MAX = 32
"""Agents that one turn can reach, those that they may call included."""
DESCRIPTION_MAX_CHARS = 500
"""Of an agent's description, in that of the tool."""


class Delegate(Message):
    """An agent that may be called, as the caller's key may use it."""

    agent: AgentRef
    model: str
    """The real id of its model."""
    description: str = ""


class CallingTurn(Message):
    """The turn whose agent has called this one's."""

    turn: TurnId
    conversation: ConversationKey


class Delegation(Message):
    """What a turn may ask of other agents, and who has asked for it."""

    reached: Mapping[str, Delegate] = {}
    """All agents that can be reached from the first caller's, by name. Which of them may be called
    in this turn, the profile of its agent says."""
    depth: int = 0
    """How many callers stand above it."""
    caller: CallingTurn | None = None
    """None for a turn that a client asked for."""
    budget_tokens: int | None = None
    """Tokens that its caller leaves it; None if its caller has no budget."""


CallId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
"""The model's id of a call: the same however often the call is told."""


class AskDelegate(Message):
    """The agent of the turn calls another one. Answered by `DelegateAnswered`; told again over a
    new link until it is."""

    type: Literal["ask_delegate"] = "ask_delegate"
    turn: SaidTurn
    call: CallId
    agent: AgentName
    task: Annotated[str, Field(min_length=1, max_length=TASK_MAX_BYTES)]
    conversation: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{24}$")] | None = None
    """Where the called agent goes on; None for a new conversation."""


class DelegateDid(Message):
    """The called agent has done something: its event `n`. Told again after a change of workers."""

    type: Literal["delegate_did"] = "delegate_did"
    turn: TurnId
    call: CallId
    n: int
    event: Annotated[ToolCall | ToolResult, Field(discriminator="type")]


class DelegateAnswered(Message):
    """What the call came to, in words for the model."""

    type: Literal["delegate_answered"] = "delegate_answered"
    turn: TurnId
    call: CallId
    text: str
    is_error: bool = False
