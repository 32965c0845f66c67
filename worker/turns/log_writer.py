"""Collects one turn's events for the turn log.

The first event, tool events and everything except deltas are logged at once, deltas at least every
250 ms; `worker.log_flusher` does it for all turns together. Only logged events are acknowledged to
the agent. While Redis is unavailable, the agent keeps the events, and this writer holds a bounded
copy. It also keeps the newest logged events: replication is asynchronous, so a failover may lose
the end of a log, which is then logged again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeVar

from infra.runtime.logs import fields
from infra.store.conversations.leases import Lease
from infra.store.turns.log import Appended
from infra.wire.errors import ErrorCode, TenantHoldsTooMuch, TurnLogTorn
from infra.wire.events import is_delta
from infra.wire.ids import TurnId
from worker.log_flusher import Events, LogFlusher

_Answer = TypeVar("_Answer")

log = logging.getLogger(__name__)

BATCH_MAX_EVENTS = 500
PENDING_MAX_BYTES = 4 * 1024 * 1024
KEPT_MAX_EVENTS = 512
KEPT_MAX_BYTES = 256 * 1024
"""Of what is logged. Seconds of a fast stream; replicas lag by milliseconds."""


class TurnLogWriter:
    """A turn's events on their way to the log, under the owner's lease."""

    def __init__(
        self,
        flusher: LogFlusher,
        lease: Lease,
        turn: TurnId,
        *,
        on_logged: Callable[[int], None],
        on_broken: Callable[[ErrorCode], None] = lambda _: None,
        pending_max_bytes: int = PENDING_MAX_BYTES,
    ) -> None:
        """`on_logged` is called with the newest logged number after each append; `on_broken` once,
        with the reason, if nothing more can be logged."""
        self.lease = lease
        self.turn = turn
        self._flusher = flusher
        self._on_logged = on_logged
        self._on_broken = on_broken
        self._pending_max_bytes = pending_max_bytes
        self._pending: list[tuple[int, bytes]] = []
        self._pending_bytes = 0
        self._urgent_to = 0
        """Events up to this number are logged at once."""
        self._asked_to = 0
        """The log was asked to take events up to this number."""
        self._kept: deque[tuple[int, bytes]] = deque()
        self._kept_bytes = 0
        self.broken: ErrorCode | None = None
        """Why nothing is logged any more: the log has lost what cannot be put back, or its tenant
        holds all it may."""
        self.failure: Exception | None = None
        """`LeaseLost`, if the conversation is another worker's."""
        self._failed = asyncio.Event()
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
        if n == 1 or self.is_full or not is_delta(payload):
            self._urgent_to = n
            self._flusher.urge(self)
        else:
            self._flusher.delay(self)

    async def run(self) -> None:
        """Have events logged until cancelled. Raises `LeaseLost`."""
        self._flusher.join(self)
        self._ask()
        try:
            await self._failed.wait()
        finally:
            self._flusher.leave(self)
        assert self.failure is not None
        raise self.failure

    def batch(self) -> Events:
        """The oldest events that wait, to be asked for at once."""
        batch = self._pending[:BATCH_MAX_EVENTS]
        if batch:
            self._asked_to = batch[-1][0]
        return batch

    def settle(self, batch: Events, appended: Appended) -> None:
        """What became of a batch. It may have been settled before, because a call outlives a
        cancellation."""
        match appended:
            case TurnLogTorn():
                self._mend(appended.newest)
            case TenantHoldsTooMuch():
                log.error("%s", appended, extra=fields(turn=self.turn))
                self._break(appended.code)
            case int():
                self._take_logged(batch, appended)
            case _:
                self.fail(appended)
                return
        self._ask()

    def fail(self, error: Exception) -> None:
        """Nothing more can be logged: `run` raises the error."""
        self.failure = error
        self._failed.set()
        self._flusher.leave(self)

    def _ask(self) -> None:
        """What waits is due at once or soon."""
        if not self._pending:
            self._empty.set()
        elif self._pending[0][0] <= self._urgent_to:
            self._flusher.urge(self)
        else:
            self._flusher.delay(self)

    def hurry(self) -> None:
        """Have every event added so far logged at once. Returns at once."""
        if self._pending:
            self._urgent_to = self._pending[-1][0]
            if self._urgent_to > self._asked_to:
                self._flusher.urge(self)

    async def flush(self) -> None:
        """Wait until every event added so far is logged, while `run` runs."""
        if self._pending:
            self._urgent_to = self._pending[-1][0]
            self._ask()
        await self._empty.wait()

    async def finish(
        self, finish: Callable[[int, ErrorCode | None], Awaitable[_Answer]], n: int
    ) -> _Answer:
        """Log the end under number `n`, after every added event; `run` logs the rest.

        `finish` is called with the end's number and, if the log is incomplete, the reason; it is
        called again if a failover has lost events before it, which are logged again first. A broken
        log ends where it broke. Raises what `finish` raises, and `LeaseLost`.

        An append under way is not waited for: commands keep their order, and if it fails, events
        before the end are missing, and `finish` says so.
        """
        if self._pending and self._pending[-1][0] > self._asked_to:
            await self.flush()
        while True:
            had_pending = bool(self._pending)
            try:
                return await finish(n, self.broken)
            except TurnLogTorn as torn:
                # A long append goes another way than this end, and may have come after it.
                if not had_pending and not self.broken:
                    self._mend(torn.newest)
                await self.flush()
                if self.broken:
                    n = torn.newest + 1

    async def append_rest(self) -> None:
        """Try once more to log what waits, after `run` has ended.

        Raises `LeaseLost` and `StoreUnavailable`; the agent still has what is not logged.
        """
        while self._pending:
            batch = self.batch()
            [appended] = await self._flusher.append({self: batch})
            self.settle(batch, appended)
            if self.failure is not None:
                raise self.failure

    def _take_logged(self, batch: Events, newest: int) -> None:
        """Only now they go, because a failed append must find them again."""
        last = batch[-1][0]
        logged = [event for event in self._pending[: len(batch)] if event[0] <= last]
        del self._pending[: len(logged)]
        self._pending_bytes -= sum(len(payload) for _, payload in logged)
        self._keep(logged)
        if self._pending and len(batch) == BATCH_MAX_EVENTS:
            self._urgent_to = self._pending[-1][0]
        self._on_logged(newest)

    def _keep(self, batch: list[tuple[int, bytes]]) -> None:
        self._kept.extend(batch)
        self._kept_bytes += sum(len(payload) for _, payload in batch)
        while len(self._kept) > KEPT_MAX_EVENTS or self._kept_bytes > KEPT_MAX_BYTES:
            self._kept_bytes -= len(self._kept.popleft()[1])

    def _mend(self, newest: int) -> None:
        """Put events in front again that were logged and are missing, if they are still kept."""
        lost = [event for event in self._kept if event[0] > newest]
        self._asked_to = newest
        is_whole = bool(lost) and lost[0][0] == newest + 1
        extra = fields(turn=self.turn, newest=newest, lost=len(lost))
        self._kept = deque(event for event in self._kept if event[0] <= newest)
        self._kept_bytes = sum(len(payload) for _, payload in self._kept)
        if is_whole:
            log.warning("the log has lost its end, which is logged again", extra=extra)
            self._pending[:0] = lost
            self._pending_bytes += sum(len(payload) for _, payload in lost)
            self._urgent_to = self._pending[-1][0]
            self._empty.clear()
            return
        log.error("the log has lost more than is held", extra=extra)
        self._break(ErrorCode.LOG_LOST)

    def _break(self, code: ErrorCode) -> None:
        self.broken = code
        self._pending.clear()
        self._pending_bytes = 0
        self._on_broken(code)
