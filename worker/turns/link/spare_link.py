"""The worker's link to a spare: has it prepared, and keeps it until a conversation claims it.

The conversation's own link takes over from this one, with a higher fence.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from infra.runtime.clock import Clock
from infra.runtime.logs import fields
from infra.wire.errors import AgentUnreachable, MalformedMessage, UnknownMessage
from infra.wire.ids import Fence, WorkerId
from infra.wire.link import AgentSettings, Answer, Hello, Prepare, Prepared, Refused
from infra.wire.socket_folder import AGENT_SOCKET
from infra.wire.text.foreign import foreign
from worker.hosts.host import SessionFolders
from worker.parts import Timings
from worker.turns.link.agent_link import AgentLink, connect

log = logging.getLogger(__name__)

ALONE_S = 120.0
"""A spare that its worker has not pinged for this long leaves by itself."""
_PING_S = 30.0
_FENCE = Fence(0)
"""Lower than any conversation's."""


class SpareLinks:
    """Makes the links to a worker's spares."""

    def __init__(
        self, clock: Clock, timings: Timings, *, worker: WorkerId, timeout_s: float
    ) -> None:
        """`timeout_s`: for an agent to come up, and again for its CLI."""
        self._clock = clock
        self._timings = timings
        self._worker = worker
        self._timeout_s = timeout_s

    async def prepare(self, folders: SessionFolders, settings: AgentSettings) -> SpareLink:
        """A link to the spare in these folders, whose CLI is connected. Raises
        `AgentUnreachable`."""
        link = SpareLink()
        try:
            await link.open(await self._connected(folders, link), settings, self._timeout_s)
        except BaseException:
            link.close()
            raise
        return link

    async def _connected(self, folders: SessionFolders, link: SpareLink) -> AgentLink:
        give_up_s = self._clock.monotonic() + self._timeout_s
        hello = Hello(worker=self._worker, fence=_FENCE, alone_s=ALONE_S)
        while True:
            try:
                return await connect(
                    folders.sockets / AGENT_SOCKET,
                    hello,
                    link,
                    self._clock,
                    timeout_s=self._timings.greeting_s,
                )
            except AgentUnreachable:
                if self._clock.monotonic() > give_up_s:
                    raise
            await self._clock.sleep(self._timings.connect_pause_max_s)


class SpareLink:
    """One link. Implements `worker.hosts.pool.pool.PreparedAgent`."""

    def __init__(self) -> None:
        self._link: AgentLink | None = None
        self._answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._pinging: asyncio.TimerHandle | None = None

    @property
    def is_open(self) -> bool:
        """Whether the agent is there, as far as we know."""
        return self._link is not None and self._link.is_open

    async def open(self, link: AgentLink, settings: AgentSettings, timeout_s: float) -> None:
        """Have it prepared. Raises `AgentUnreachable`."""
        self._link = link
        link.send(Prepare(settings=settings))
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self._answered
        except TimeoutError as error:
            raise AgentUnreachable("the spare's CLI does not come up") from error
        if not isinstance(answer, Prepared):
            raise AgentUnreachable(f"the spare is not ready: {answer.type}")
        self._ping()

    def close(self) -> None:
        """Hang up."""
        if self._pinging is not None:
            self._pinging.cancel()
        if self._link is not None:
            self._link.close()
        self._answered.cancel()

    def _ping(self) -> None:
        if self.is_open and self._link is not None:
            self._link.ping()
            self._pinging = asyncio.get_running_loop().call_later(_PING_S, self._ping)

    # LinkListener

    def on_frame(self, line: bytes) -> None:
        """See `LinkListener`: a spare has no turn."""

    def on_answer(self, answer: Answer) -> None:
        """See `LinkListener`."""
        if isinstance(answer, Refused):
            log.warning("spare refused: %s", foreign(answer.message))
        if isinstance(answer, Prepared | Refused) and not self._answered.done():
            self._answered.set_result(answer)

    def on_transcript(self, line: bytes) -> None:
        """See `LinkListener`: a spare has said nothing."""

    def on_offence(self, error: MalformedMessage) -> None:
        """See `LinkListener`."""
        log.warning("a spare sent no message: %s", error)

    def on_unknown(self, unknown: UnknownMessage) -> None:
        """See `LinkListener`."""
        log.info("skipped: %s", unknown, extra=fields())

    def on_link_lost(self) -> None:
        """See `LinkListener`."""
        if not self._answered.done():
            self._answered.set_exception(AgentUnreachable("the spare hung up"))
            with contextlib.suppress(BaseException):
                self._answered.exception()
