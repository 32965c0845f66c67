"""Writes one turn's events to the turn log.

The first event, tool events and everything except deltas are logged at once, deltas at least every
250 ms. Only logged events are acknowledged to the agent. While Redis is unavailable, the agent
keeps the events, and this writer holds a bounded copy and retries. It also keeps the newest logged
events: replication is asynchronous, so a failover may lose the end of a log, which is then logged
again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeVar

from infra.runtime.clock import Clock
from infra.runtime.logs import fields
from infra.store.conversations.leases import Lease
from infra.store.turns.log import TurnLog
from infra.wire.errors import ErrorCode, StoreUnavailable, TenantHoldsTooMuch, TurnLogTorn
from infra.wire.events import is_delta
from infra.wire.ids import TurnId
from worker.waiting import FIRST_PAUSE_S, LONGEST_PAUSE_S, signalled

_Answer = TypeVar("_Answer")

log = logging.getLogger(__name__)

BATCH_MAX_EVENTS = 500
PENDING_MAX_BYTES = 4 * 1024 * 1024
KEPT_MAX_EVENTS = 512
KEPT_MAX_BYTES = 256 * 1024
"""Of what is logged. Seconds of a fast stream; replicas lag by milliseconds."""


class TurnLogWriter:
    """Collects a turn's events and appends them under the owner's lease."""

    def __init__(
        self,
        turn_log: TurnLog,
        lease: Lease,
        turn: TurnId,
        clock: Clock,
        *,
        on_logged: Callable[[int], None],
        on_broken: Callable[[ErrorCode], None] = lambda _: None,
        every_s: float = 0.25,
        pending_max_bytes: int = PENDING_MAX_BYTES,
    ) -> None:
        """`on_logged` is called with the newest logged number after each append; `on_broken` once,
        with the reason, if nothing more can be logged."""
        self._turn_log = turn_log
        self._lease = lease
        self._turn = turn
        self._clock = clock
        self._on_logged = on_logged
        self._on_broken = on_broken
        self._every_s = every_s
        self._pending_max_bytes = pending_max_bytes
        self._pending: list[tuple[int, bytes]] = []
        self._pending_bytes = 0
        self._kept: deque[tuple[int, bytes]] = deque()
        self._kept_bytes = 0
        self.broken: ErrorCode | None = None
        """Why nothing is logged any more: the log has lost what cannot be put back, or its tenant
        holds all it may."""
        self._arrived = asyncio.Event()
        self._urgent = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def is_full(self) -> bool:
        """Whether too much waits: stop reading from the agent until `on_logged`."""
        return self._pending_bytes > self._pending_max_bytes

    def add(self, n: int, payload: bytes) -> None:
        """Add an event. Returns at once."""
        if self.broken:
            return
        self._pending.append((n, payload))
        self._pending_bytes += len(payload)
        self._empty.clear()
        self._arrived.set()
        if n == 1 or self.is_full or not is_delta(payload):
            self._urgent.set()

    async def run(self) -> None:
        """Append events until cancelled. Raises `LeaseLost`."""
        while True:
            await self._arrived.wait()
            await signalled(self._urgent, self._clock, timeout_s=self._every_s)
            await self._append_all()

    async def flush(self) -> None:
        """Wait until every event added so far is logged; `run` does the work."""
        if self._pending:
            self._urgent.set()
        await self._empty.wait()

    async def finish(
        self, finish: Callable[[int, ErrorCode | None], Awaitable[_Answer]], n: int
    ) -> _Answer:
        """Log the end under number `n`, after every added event; `run` logs the rest.

        `finish` is called with the end's number and, if the log is incomplete, the reason; it is
        called again if a failover has lost events before it, which are logged again first. A broken
        log ends where it broke. Raises what `finish` raises, and `LeaseLost`.
        """
        await self.flush()
        while True:
            try:
                return await finish(n, self.broken)
            except TurnLogTorn as torn:
                if not self.broken:
                    self._mend(torn.newest)
                    await self.flush()
                if self.broken:
                    n = torn.newest + 1

    async def append_rest(self) -> None:
        """Try once more to log what waits, after `run` has ended.

        Raises `LeaseLost` and `StoreUnavailable`; the agent still has what is not logged.
        """
        while self._pending:
            await self._append_batch()

    async def _append_all(self) -> None:
        pause_s = FIRST_PAUSE_S
        while self._pending:
            try:
                await self._append_batch()
                pause_s = FIRST_PAUSE_S
            except StoreUnavailable as error:
                log.warning("events not logged: %s", error, extra=fields(turn=self._turn))
                await self._clock.sleep(pause_s)
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
        self._arrived.clear()
        self._urgent.clear()
        self._empty.set()

    async def _append_batch(self) -> None:
        batch = self._pending[:BATCH_MAX_EVENTS]
        try:
            logged = await self._turn_log.append(self._lease, self._turn, batch)
        except TurnLogTorn as torn:
            self._mend(torn.newest)
            return
        except TenantHoldsTooMuch as full:
            log.error("%s", full, extra=fields(turn=self._turn))
            self._break(full.code)
            return
        # Only now, because a failed append must find its events again.
        del self._pending[: len(batch)]
        self._pending_bytes -= sum(len(payload) for _, payload in batch)
        self._keep(batch)
        self._on_logged(logged)

    def _keep(self, batch: list[tuple[int, bytes]]) -> None:
        self._kept.extend(batch)
        self._kept_bytes += sum(len(payload) for _, payload in batch)
        while len(self._kept) > KEPT_MAX_EVENTS or self._kept_bytes > KEPT_MAX_BYTES:
            self._kept_bytes -= len(self._kept.popleft()[1])

    def _mend(self, newest: int) -> None:
        """Put events in front again that were logged and are missing, if they are still kept."""
        lost = [event for event in self._kept if event[0] > newest]
        is_whole = bool(lost) and lost[0][0] == newest + 1
        extra = fields(turn=self._turn, newest=newest, lost=len(lost))
        self._kept = deque(event for event in self._kept if event[0] <= newest)
        self._kept_bytes = sum(len(payload) for _, payload in self._kept)
        if is_whole:
            log.warning("the log has lost its end, which is logged again", extra=extra)
            self._pending[:0] = lost
            self._pending_bytes += sum(len(payload) for _, payload in lost)
            self._empty.clear()
            self._arrived.set()
            return
        log.error("the log has lost more than is held", extra=extra)
        self._break(ErrorCode.LOG_LOST)

    def _break(self, code: ErrorCode) -> None:
        self.broken = code
        self._pending.clear()
        self._pending_bytes = 0
        self._on_broken(code)
