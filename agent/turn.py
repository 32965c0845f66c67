"""A turn that the agent runs, and the protocol of whatever runs it.

`AgentSession` is implemented by `agent.session` (the Agent SDK) and `tests.fakes.scripted_agent`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Protocol

from agent.outbox import Outbox
from infra.wire.agents.delegation import AskDelegate, DelegateAnswered, DelegateDid
from infra.wire.events import Event, Notice, TurnEnded, TurnStarted
from infra.wire.history.answers import ToldHeads
from infra.wire.link import AgentSettings, InterruptReason, StartTurn


class PendingCalls(Protocol):
    """A turn's calls that the worker answers (`agent.delegation`)."""

    @property
    def unanswered(self) -> Iterable[AskDelegate]:
        """Those that wait for an answer."""
        ...

    def take(self, told: DelegateDid | DelegateAnswered) -> None:
        """Something about one of them has come from the worker."""
        ...


class RunningTurn:
    """A turn's request, its output so far, and whether it should stop."""

    def __init__(self, start: StartTurn) -> None:
        self.start = start
        self.outbox = Outbox(start.turn, max_bytes=start.settings.buffer_max_bytes)
        self.answer = ToldHeads()
        """The heads of the answer so far."""
        self.interrupted: InterruptReason | None = None
        self._stop = asyncio.Event()
        self.calls: PendingCalls | None = None
        """Its calls of other agents; None if it may call none."""

    async def say(self, event: Event) -> None:
        """Report an event. Waits while the outbox is full."""
        self.answer.add(event)
        await self.outbox.put(event)
        if isinstance(event, TurnStarted):
            for text in self.start.notices:
                await self.outbox.put(Notice(text=text))

    def interrupt(self, reason: InterruptReason) -> None:
        """Ask the turn to end. The first reason counts."""
        self.interrupted = self.interrupted or reason
        self.outbox.lift_bound()
        self._stop.set()

    async def wait_interrupted(self) -> InterruptReason:
        """Wait until somebody interrupts the turn. The end of the turn cancels this wait."""
        await self._stop.wait()
        assert self.interrupted is not None
        return self.interrupted


class AgentSession(Protocol):
    """A conversation's agent. One task calls `run` and `aclose`, never at the same time."""

    @property
    def sdk_session(self) -> str | None:
        """The id under which the agent remembers the conversation; None before its first turn."""
        ...

    async def prepare(self, settings: AgentSettings) -> bool:
        """Become a spare: be ready for a first turn with these settings. False if that failed.

        A turn may come even so.
        """
        ...

    async def run(self, turn: RunningTurn) -> TurnEnded:
        """Run a turn, report its events, and return how it ended.

        Honours `turn.interrupted` within the grace time of its settings. External failures are
        endings, not exceptions. After a failed turn the session can run the next one.
        """
        ...

    async def aclose(self) -> None:
        """End everything that runs. Takes bounded time; afterwards nothing is left."""
        ...
