"""Maintains a conversation's link to its agent: connects, reconnects, watches for silence.

It decides nothing about turns: the current turn is told when the link is a new one, and the link's
user when the agent can no longer be reached.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum, auto
from pathlib import Path
from typing import Protocol

from infra.runtime.clock import Clock
from infra.runtime.logs import RatedLog, fields
from infra.wire.agents.delegation import AskDelegate
from infra.wire.errors import AgentUnreachable, MalformedMessage, UnknownMessage
from infra.wire.ids import ConversationKey
from infra.wire.link import AgentTimes, Answer, Command, Hello, McpServers, Refused
from worker.hosts.host import ContainerId
from worker.lines import HeldLines
from worker.ownership import HeldLease
from worker.parts import Timings
from worker.turns.link.agent_link import AgentLink, connect

log = logging.getLogger(__name__)

_PAUSE_GROWTH = 1.5
LOSSES_MAX = 8
LOSSES_WITHIN_S = 60.0
"""An agent whose link breaks this often is given up. An honest one loses it only by a worker's
fault."""


class SilenceStep(Enum):
    """What to do about a silent agent."""

    NOTHING = auto()
    PING = auto()
    """It must answer; an idle one is told that we are there."""
    ABORT = auto()
    """It has not answered: the link counts as broken."""


def step_in_silence(
    silent_s: float, *, is_working: bool, silence_s: float, alone_s: float
) -> SilenceStep:
    """What to do about an agent that has sent nothing for this long.

    `silence_s`: how long a working agent may be silent before it is pinged, and then again before
    the link counts as broken. An idle agent exits if it hears nothing for `alone_s`.
    """
    if not is_working:
        return SilenceStep.PING if silent_s > alone_s / 4 else SilenceStep.NOTHING
    if silent_s > 2 * silence_s:
        return SilenceStep.ABORT
    return SilenceStep.PING if silent_s > silence_s else SilenceStep.NOTHING


def breaks_too_often(losses_s: Sequence[float], now_s: float) -> bool:
    """Whether a link that broke at these times, and now again, is not worth another try."""
    return len(losses_s) >= LOSSES_MAX and now_s - losses_s[-LOSSES_MAX] < LOSSES_WITHIN_S


class LinkUser(Protocol):
    """The owner of the link."""

    @property
    def container(self) -> ContainerId | None:
        """The agent's container; None if there is none, so that no link is needed."""
        ...

    def on_transcript(self, line: bytes) -> None:
        """See `LinkListener`."""
        ...

    def on_ask(self, ask: AskDelegate) -> None:
        """The agent calls another one, in the current turn."""
        ...

    async def on_agent_gone(self, container: ContainerId, error: AgentUnreachable) -> None:
        """The link broke, and this container's agent could not be reached again in time."""
        ...


class Hearer(Protocol):
    """The receiver of the agent's messages: the current turn."""

    @property
    def is_agent_working(self) -> bool:
        """Whether the agent works on the turn, so that its silence would mean something."""
        ...

    def on_frame(self, line: bytes) -> None:
        """See `LinkListener`."""
        ...

    def on_refused(self, refused: Refused) -> None:
        """The agent refused a command."""
        ...

    def on_relinked(self, link: AgentLink) -> None:
        """The link broke, and a new one to the same container is up."""
        ...

    def on_times(self, times: AgentTimes) -> None:
        """The agent reports how it started."""
        ...

    def on_servers(self, servers: McpServers) -> None:
        """The agent reports how its MCP servers are."""
        ...


class KeptLink:
    """The link of one conversation. `tend` and `watch_silence` are its tasks."""

    def __init__(
        self,
        socket: Path,
        hello: Hello,
        held: HeldLease,
        user: LinkUser,
        *,
        clock: Clock,
        timings: Timings,
        held_lines: HeldLines,
    ) -> None:
        """`socket` is the agent's; `hello` is the first message on each link.

        `held_lines` limits the long lines of all agents' links.
        """
        self._has_session = False
        self._socket = socket
        self._hello = hello
        self._clock = clock
        self._timings = timings
        self._held_lines = held_lines
        self._held = held
        self._user = user
        self._link: AgentLink | None = None
        self._connecting = asyncio.Lock()
        self._lost = asyncio.Event()
        self._hearer: Hearer | None = None
        # As attributes, so that a frame on its way passes no call of ours.
        self.on_frame: Callable[[bytes], None] = _unheard
        self.on_transcript: Callable[[bytes], None] = user.on_transcript
        self._losses_s: deque[float] = deque(maxlen=LOSSES_MAX)
        self._log = RatedLog(
            log, extra=fields(conversation=self.conversation), monotonic=clock.monotonic
        )

    @property
    def conversation(self) -> ConversationKey:
        return self._held.conversation

    @property
    def current(self) -> AgentLink | None:
        """The newest link. It may be broken while `tend` works on the next one."""
        return self._link

    @property
    def has_session(self) -> bool:
        """Whether the agent has an SDK session with the conversation's memory."""
        return self._has_session

    def note_turn(self, *, is_remembered: bool, has_begun: bool) -> None:
        """A turn has ended. `has_begun`: it had a session; `is_remembered`: the session was
        kept."""
        self._has_session = is_remembered and (self._has_session or has_begun)

    @contextmanager
    def heard_by(self, hearer: Hearer) -> Iterator[None]:
        """Set the receiver of the agent's messages. The agent repeats what nobody received."""
        self._hearer, self.on_frame = hearer, hearer.on_frame
        try:
            yield
        finally:
            self._hearer, self.on_frame = None, _unheard

    def on_answer(self, answer: Answer) -> None:
        """See `LinkListener`."""
        if self._hearer is None:
            return
        match answer:
            case Refused():
                self._hearer.on_refused(answer)
            case AskDelegate():
                self._user.on_ask(answer)
            case AgentTimes():
                self._hearer.on_times(answer)
            case McpServers():
                self._hearer.on_servers(answer)
            case _:
                pass

    def on_link_lost(self) -> None:
        """See `LinkListener`."""
        self._lost.set()

    def on_offence(self, error: MalformedMessage) -> None:
        """See `LinkListener`."""
        self._log.warning("an agent sent no message: %s", error)

    def on_unknown(self, unknown: UnknownMessage) -> None:
        """See `LinkListener`."""
        self._log.info("skipped: %s", unknown)

    def send(self, command: Command) -> None:
        """Send a message, if there is a link."""
        if self._link is not None:
            self._link.send(command)

    async def reach(self, *, timeout_s: float) -> AgentLink:
        """The open link, connected (again) if necessary. Raises `AgentUnreachable`.

        A starting agent needs up to a second until it listens. A failed try costs nothing, so there
        are many.
        """
        async with self._connecting:
            if self._link is not None and self._link.is_open:
                return self._link
            timings, clock = self._timings, self._clock
            give_up_s = clock.monotonic() + timeout_s
            pause_s = timings.connect_pause_s
            while True:
                try:
                    return await self._connect()
                except AgentUnreachable:
                    if clock.monotonic() + pause_s > give_up_s:
                        raise
                await clock.sleep(pause_s)
                pause_s = min(pause_s * _PAUSE_GROWTH, timings.connect_pause_max_s)

    async def _connect(self) -> AgentLink:
        link = await connect(
            self._socket,
            self._hello,
            self,
            self._clock,
            timeout_s=self._timings.greeting_s,
            held=self._held_lines,
        )
        self._link = link
        self._has_session = link.welcome.sdk_session is not None
        return link

    def drop(self) -> None:
        """Drop the link: there is no agent any longer, or it belongs to another worker."""
        if self._link is not None:
            self._link.close()
            self._link = None
        self._has_session = False
        self._lost.clear()

    async def tend(self) -> None:
        """Reconnect when the link breaks, and report when that does not work. Runs until
        cancelled."""
        while True:
            await self._lost.wait()
            self._lost.clear()
            container = self._user.container
            if container is None:
                continue
            self._log.info("link lost")
            try:
                self._bear_loss()
                link = await self.reach(timeout_s=self._timings.relink_s)
                await self._held.until_sure()
            except AgentUnreachable as error:
                await self._user.on_agent_gone(container, error)
            else:
                # Another container was linked by the turn that started it.
                if self._user.container == container and self._hearer is not None:
                    self._hearer.on_relinked(link)

    def _bear_loss(self) -> None:
        """Raises `AgentUnreachable` if the link breaks too often to be worth another try."""
        now_s = self._clock.monotonic()
        if breaks_too_often(self._losses_s, now_s):
            raise AgentUnreachable(f"its link broke {LOSSES_MAX} times in a minute")
        self._losses_s.append(now_s)

    async def watch_silence(self) -> None:
        """During a turn, a silent agent must answer a ping, otherwise the link counts as broken.

        An idle agent is pinged now and then, because it would exit otherwise.
        """
        silence_s, clock = self._timings.silence_s, self._clock
        while True:
            await clock.sleep(silence_s / 2)
            link = self._link
            if link is None or not link.is_open or link.is_paused:
                continue
            hearer = self._hearer
            match step_in_silence(
                clock.monotonic() - link.heard_s,
                is_working=hearer is not None and hearer.is_agent_working,
                silence_s=silence_s,
                alone_s=self._hello.alone_s,
            ):
                case SilenceStep.PING:
                    link.ping()
                case SilenceStep.ABORT:
                    self._log.warning("agent silent")
                    link.abort()
                case SilenceStep.NOTHING:
                    pass


def _unheard(line: bytes) -> None:
    """The agent sent something about a turn, but none runs."""
