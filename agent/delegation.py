"""Calls of other agents in one turn.

The model calls a tool, and the call is answered while the turn runs: the worker is asked, tells
what the called agent does, and at last what it answered. A worker that takes the turn over is asked
again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from agent.cli.offers import CallReply, Offer, OfferedCall
from agent.turn import RunningTurn
from infra.wire.agents.delegation import (
    DELEGATE_TOOL,
    DESCRIPTION_MAX_CHARS,
    TASK_MAX_BYTES,
    AskDelegate,
    DelegateAnswered,
    DelegateDid,
)
from infra.wire.ids import ConversationKey

_ABOUT = (
    "Give a task to another agent, which works on it elsewhere, in a workspace of its own, and "
    "answers when it is done. It sees nothing of this conversation and none of your files: put all "
    "that it needs into the task. Files that it makes are put into your workspace, and its answer "
    "says where. Several calls at once run side by side. Its answer names a conversation; give it "
    "in another call to go on where it stopped. Agents:"
)
_OVER = CallReply("The call was given up, because the turn ends.")

Told = DelegateDid | DelegateAnswered


@dataclass
class _Pending:
    ask: AskDelegate
    told: asyncio.Queue[Told] = field(default_factory=asyncio.Queue)
    newest: int = 0
    """The number of the newest event that was reported."""


class DelegatedCalls:
    """What a turn has asked of other agents."""

    def __init__(
        self,
        turn: RunningTurn,
        delegates: Mapping[str, str],
        *,
        tell: Callable[[AskDelegate], None],
    ) -> None:
        """`delegates` are the agents that may be called, with their descriptions. `tell` sends a
        message to the worker, if one is linked."""
        self._turn = turn
        self._delegates = delegates
        self._tell = tell
        self._pending: dict[str, _Pending] = {}
        self._is_over = False
        self.offers: Sequence[Offer] = [self._offer()] if delegates else []

    @property
    def unanswered(self) -> Iterable[AskDelegate]:
        """The calls that wait for an answer."""
        return [pending.ask for pending in self._pending.values()]

    def take(self, told: Told) -> None:
        """Something about a call has come from the worker."""
        if pending := self._pending.get(told.call):
            pending.told.put_nowait(told)

    def close(self) -> None:
        """The turn is over: nobody waits for an answer any longer."""
        self._is_over = True
        for call, pending in self._pending.items():
            gone = DelegateAnswered(turn=self._turn.start.turn, call=call, text=_OVER.text)
            pending.told.put_nowait(gone.model_copy(update={"is_error": True}))

    def _offer(self) -> Offer:
        listed = "".join(
            f"\n- {name}: {' '.join(about.split())[:DESCRIPTION_MAX_CHARS]}"
            for name, about in self._delegates.items()
        )
        schema = {
            "type": "object",
            "properties": {
                "agent": {"type": "string", "enum": list(self._delegates)},
                "task": {"type": "string", "description": "The whole task."},
                "conversation": {
                    "type": "string",
                    "description": "Where an earlier call of this agent is to go on.",
                },
            },
            "required": ["agent", "task"],
        }
        return Offer(DELEGATE_TOOL, _ABOUT + listed, schema, lambda call: None, self._answer)

    async def _answer(self, call: OfferedCall) -> CallReply:
        ask = self._ask_of(call)
        if isinstance(ask, str):
            return CallReply(ask)
        if self._is_over:
            return _OVER
        pending = self._pending[ask.call] = _Pending(ask)
        self._tell(ask)
        try:
            while isinstance(told := await pending.told.get(), DelegateDid):
                await self._report(pending, told)
        finally:
            del self._pending[ask.call]
        return CallReply(told.text, is_error=told.is_error)

    async def _report(self, pending: _Pending, did: DelegateDid) -> None:
        """Show what the called agent does below the call, once."""
        if did.n <= pending.newest or self._is_over:
            return
        pending.newest = did.n
        own = {"id": f"{did.call}-{did.event.id}", "parent": did.call}
        await self._turn.say(did.event.model_copy(update=own))

    def _ask_of(self, call: OfferedCall) -> AskDelegate | str:
        """What to ask of the worker, or what is wrong with the call."""
        agent, task = call.input.get("agent"), call.input.get("task")
        if not isinstance(agent, str) or agent not in self._delegates:
            return f"There is no agent {agent!r:.80}. You may call {', '.join(self._delegates)}."
        if not isinstance(task, str) or not task.strip():
            return "There is no task in this call. Give `task`, with all that the agent needs."
        if len(json.dumps(task, ensure_ascii=False).encode(errors="replace")) > TASK_MAX_BYTES:
            return f"The task is too long: at most {TASK_MAX_BYTES // 1024} KiB of text."
        try:
            return AskDelegate(
                turn=self._turn.start.turn,
                call=call.id,
                agent=agent,
                task=task,
                conversation=ConversationKey(given)
                if (given := call.input.get("conversation"))
                else None,
            )
        except ValueError:
            return "`conversation` must be one that an earlier answer of the agent has named."
