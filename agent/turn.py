"""A turn the agent is on, and the seam to whatever runs it.

Implementations of `AgentSession`: `agent.session` (the Agent SDK) and `tests.fakes.scripted_agent`.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from agent.outbox import Outbox
from infra.wire.answers import ToldHeads
from infra.wire.events import Event, TurnEnded
from infra.wire.link import InterruptReason, StartTurn


class RunningTurn:
    """What was asked, what has been said, and whether it is to stop."""

    def __init__(self, start: StartTurn) -> None:
        self.start = start
        self.outbox = Outbox(start.turn, max_bytes=start.settings.buffer_max_bytes)
        self.answer = ToldHeads()
        """How the answer begins, so far."""
        self.interrupted: InterruptReason | None = None
        self._stop = asyncio.Event()

    async def say(self, event: Event) -> None:
        """Tell an event; waits while the outbox is full."""
        self.answer.add(event)
        await self.outbox.put(event)

    def interrupt(self, reason: InterruptReason) -> None:
        """Ask the turn to end. The first reason stays."""
        self.interrupted = self.interrupted or reason
        self.outbox.lift_bound()
        self._stop.set()

    async def wait_interrupted(self) -> InterruptReason:
        """Until somebody interrupts; bounded by the turn's own end, which cancels the wait."""
        await self._stop.wait()
        assert self.interrupted is not None
        return self.interrupted


class AgentSession(Protocol):
    """A conversation's agent. `run` and `aclose` are called from one task, never at once."""

    @property
    def sdk_session(self) -> str | None:
        """The id under which the agent remembers the conversation; None before its first turn."""
        ...

    async def run(self, turn: RunningTurn) -> TurnEnded:
        """Run a turn, telling its events, and say how it ended.

        Honours `turn.interrupted` within the grace of its settings. What goes wrong outside is an
        ending, not an exception; after a failed turn the session is good for the next one.
        """
        ...

    async def aclose(self) -> None:
        """End what runs. Bounded; afterwards nothing of it is left."""
        ...
