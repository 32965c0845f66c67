"""A stray turn: an agent still works on it, but Redis has forgotten it.

Its client was told that the log is lost. So the turn is interrupted, and its last frames are read
and acknowledged, to make the agent free for the next turn. Used by
`worker.conversations.container.recovery`.
"""

from __future__ import annotations

import asyncio

from infra.wire.errors import AgentUnreachable
from infra.wire.events import is_end
from infra.wire.frames import decode_frame
from infra.wire.ids import TurnId
from infra.wire.link import Ack, AgentTimes, Interrupt, InterruptReason, McpServers, Refused, Replay
from worker.turns.link.agent_link import AgentLink


class StrayTurn:
    """One stray turn, from the interrupt to its last frame."""

    def __init__(self, turn: TurnId) -> None:
        self.turn = turn
        self._link: AgentLink | None = None
        self._ended = asyncio.Event()

    async def end(self, link: AgentLink, *, within_s: float) -> None:
        """Stop it and wait for its end. Raises `AgentUnreachable` if it does not end."""
        self._link = link
        # One that has ended by now is thereby free: it is refused below as gone.
        link.send(Ack(turn=self.turn, n=link.welcome.last_n))
        link.send(Interrupt(turn=self.turn, reason=InterruptReason.CANCELLED))
        link.send(Replay(turn=self.turn, after=link.welcome.last_n))
        try:
            async with asyncio.timeout(within_s):
                await self._ended.wait()
        except TimeoutError as error:
            raise AgentUnreachable("it does not end a turn that nobody wants") from error

    @property
    def is_agent_working(self) -> bool:
        """See `Hearer`: the stray turn has its own deadline."""
        return False

    def on_frame(self, line: bytes) -> None:
        """Read and drop it. Raises `MalformedMessage`."""
        frame = decode_frame(line)
        if frame.turn == self.turn and self._link is not None:
            self._link.send(Ack(turn=self.turn, n=frame.n))
            if is_end(frame.payload):
                self._ended.set()

    def on_refused(self, refused: Refused) -> None:
        """The agent no longer has the turn."""
        if refused.turn == self.turn:
            self._ended.set()

    def on_relinked(self, link: AgentLink) -> None:
        """See `Hearer`: it does not continue over another link. Its deadline ends the wait."""

    def on_times(self, times: AgentTimes) -> None:
        """See `Hearer`: nobody waits for this agent's start."""

    def on_servers(self, servers: McpServers) -> None:
        """See `Hearer`: the next turn reports them again."""
