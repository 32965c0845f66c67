"""One turn's events on their way into the turn log.

The first event, tool events and everything else that is no delta are logged at once, deltas at
least every 250 ms (D1). What is logged is acknowledged to the agent, nothing else: while Redis is
away the agent keeps the events, and this writer holds a bounded copy and tries again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from infra.runtime.clock import Clock
from infra.runtime.logs import fields
from infra.store.leases import Lease
from infra.store.turn_log import TurnLog
from infra.wire.errors import StoreUnavailable
from infra.wire.events import is_delta
from infra.wire.ids import TurnId
from worker.waiting import FIRST_PAUSE_S, LONGEST_PAUSE_S, signalled

log = logging.getLogger(__name__)

BATCH_MAX_EVENTS = 500
PENDING_MAX_BYTES = 4 * 1024 * 1024


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
        every_s: float = 0.25,
        pending_max_bytes: int = PENDING_MAX_BYTES,
    ) -> None:
        """`on_logged` is called with the newest logged number, after each append."""
        self._turn_log = turn_log
        self._lease = lease
        self._turn = turn
        self._clock = clock
        self._on_logged = on_logged
        self._every_s = every_s
        self._pending_max_bytes = pending_max_bytes
        self._pending: list[tuple[int, bytes]] = []
        self._pending_bytes = 0
        self._arrived = asyncio.Event()
        self._urgent = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def is_full(self) -> bool:
        """More waits than we want to hold: stop reading from the agent until `on_logged`."""
        return self._pending_bytes > self._pending_max_bytes

    def add(self, n: int, payload: bytes) -> None:
        """Take an event; returns at once."""
        self._pending.append((n, payload))
        self._pending_bytes += len(payload)
        self._empty.clear()
        self._arrived.set()
        if n == 1 or self.is_full or not is_delta(payload):
            self._urgent.set()

    async def run(self) -> None:
        """Append what comes until cancelled. Raises `LeaseLost`."""
        while True:
            await self._arrived.wait()
            await signalled(self._urgent, self._clock, timeout_s=self._every_s)
            await self._append_all()

    async def flush(self) -> None:
        """Until every event taken so far is logged; `run` does the work."""
        if self._pending:
            self._urgent.set()
        await self._empty.wait()

    async def append_rest(self) -> None:
        """One last try to log what waits, once `run` has ended.

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
        logged = await self._turn_log.append(self._lease, self._turn, batch)
        # Only now: a failed append must find its events again.
        del self._pending[: len(batch)]
        self._pending_bytes -= sum(len(payload) for _, payload in batch)
        self._on_logged(logged)
