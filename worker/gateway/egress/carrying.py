"""Passes bytes between an agent and a server, within the limits of its session."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiolimiter import AsyncLimiter

from infra.runtime.logs import RatedLog
from infra.wire.errors import AgClusterError
from worker.gateway.bounds import Pace, Places
from worker.gateway.sessions import Turn

log = logging.getLogger(__name__)

REFUSALS_LOGGED_MAX = 120
"""Log lines per minute about a session's refusals. Granted connections have a rate of their own."""
MCP_REQUESTS_MAX = 4
"""Requests to MCP servers at a time, of one session: their bodies are held in memory."""
CHUNK_BYTES = 64 * 1024

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class EgressRefused(AgClusterError):
    """A connection is refused; the message is for the tool's user."""

    def __init__(self, status: int, message: str, *, detail: str | None = None) -> None:
        """`detail` is only for the log: the agent must not learn it."""
        super().__init__(message)
        self.status = status
        self.message = message
        self.detail = detail


class LimitReached(AgClusterError):
    """A connection was closed because it was silent for too long or transferred too much."""


@dataclass(frozen=True)
class EgressLimits:
    """Limits of one session's tools. A rate of 0 means no limit."""

    connections_max: int = 64
    connections_per_minute: int = 1200
    rate_wait_s: float = 10.0
    """Seconds that a connection beyond the rate waits before it is refused."""
    bytes_per_s: int = 0
    head_timeout_s: float = 15.0
    linger_s: float = 2.0
    lookup_timeout_s: float = 10.0
    connect_timeout_s: float = 10.0
    idle_timeout_s: float = 300.0
    turn_bytes_max: int = 8 * 1024 * 1024 * 1024


class EgressBounds:
    """One session's current use of these limits: all connections, and those past their request."""

    def __init__(self, limits: EgressLimits) -> None:
        self.all = Places(2 * limits.connections_max)
        self.carrying = Places(limits.connections_max)
        self.mcp = Places(MCP_REQUESTS_MAX)
        self.rate = Pace(
            limits.connections_per_minute, what="connections", wait_s=limits.rate_wait_s
        )
        per_s = limits.bytes_per_s
        self.bandwidth = AsyncLimiter(per_s, 1.0) if per_s else None
        self.log = RatedLog(log, lines_max=REFUSALS_LOGGED_MAX)
        self.chunk_bytes = min(CHUNK_BYTES, per_s) if per_s else CHUNK_BYTES


@dataclass
class CarriedBytes:
    """One connection's share of its turn."""

    turn: Turn
    bounds: EgressBounds
    told: Mapping[str, object]
    sent: int = 0
    received: int = 0


class CarryingWatch:
    """Limits of one connection: silence in both directions, its session's rate, its turn's bytes.

    Waiting for the rate does not count as silence.
    """

    def __init__(
        self, silence: asyncio.Timeout, carried: CarriedBytes, limits: EgressLimits
    ) -> None:
        self._silence = silence
        self._carried = carried
        self._limits = limits
        self._loop = asyncio.get_running_loop()

    async def passed(self, size: int) -> None:
        """Raises `LimitReached`."""
        turn = self._carried.turn
        turn.egress_bytes += size
        if turn.egress_bytes > self._limits.turn_bytes_max:
            raise LimitReached(f"more than {self._limits.turn_bytes_max} bytes in this turn")
        if bandwidth := self._carried.bounds.bandwidth:
            self._silence.reschedule(None)
            await bandwidth.acquire(size)
        self._silence.reschedule(self._loop.time() + self._limits.idle_timeout_s)


@asynccontextmanager
async def watched(
    carried: CarriedBytes, limits: EgressLimits
) -> AsyncIterator[tuple[CarryingWatch, asyncio.TaskGroup]]:
    """For what passes bytes in both directions, until all its tasks are done. Raises `LimitReached`
    or `OSError`."""
    try:
        async with asyncio.timeout(limits.idle_timeout_s) as silence:
            async with asyncio.TaskGroup() as group:
                yield CarryingWatch(silence, carried, limits), group
    except* OSError as errors:
        if isinstance(errors.exceptions[0], TimeoutError):
            raise LimitReached(f"silent for {limits.idle_timeout_s:g} s") from errors
        raise ConnectionResetError("a side left") from errors
    except* LimitReached as errors:
        raise LimitReached(str(errors.exceptions[0])) from errors


async def exchange(
    agent: Streams, server: Streams, carried: CarriedBytes, limits: EgressLimits
) -> None:
    """Pass bytes both ways until both sides have ended. Raises `LimitReached` or `OSError`."""

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(carried.bounds.chunk_bytes):
            if source is agent[0]:
                carried.sent += len(data)
            else:
                carried.received += len(data)
            await watch.passed(len(data))
            sink.write(data)
            await sink.drain()
        if sink.can_write_eof():
            sink.write_eof()

    async with watched(carried, limits) as (watch, group):
        group.create_task(pump(agent[0], server[1]))
        group.create_task(pump(server[0], agent[1]))
