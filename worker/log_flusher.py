"""Appends the events of all of a worker's turns to their logs: one call for all turns that are due.

A log is due at once, or with all others that wait when the next interval is over. One call is
under way at a time; what becomes due meanwhile goes with the next. The answer has a part for each
turn, so a turn whose lease or log is lost touches no other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol

from infra.runtime.clock import Clock
from infra.runtime.logs import fields
from infra.store.conversations.leases import Lease
from infra.store.server.connection import is_answered
from infra.store.turns.log import Appended, TurnAppend, TurnLog
from infra.wire.errors import StoreUnavailable
from infra.wire.ids import TurnId
from worker.waiting import FIRST_PAUSE_S, LONGEST_PAUSE_S

log = logging.getLogger(__name__)

CALL_MAX_TURNS = 100
"""A script call with more would hold Redis for more than a millisecond."""
CALL_MAX_BYTES = 48 * 1024
"""About what a call holds; a single turn's batch may be longer."""

Events = Sequence[tuple[int, bytes]]


class WaitingLog(Protocol):
    """A turn's events that wait to be logged (`worker.turns.log_writer`)."""

    lease: Lease
    turn: TurnId

    def batch(self) -> Events:
        """The oldest of them; they stay until `settle`."""
        ...

    def settle(self, batch: Events, appended: Appended) -> None:
        """What became of a batch."""
        ...

    def fail(self, error: Exception) -> None:
        """Nothing more can be logged here."""
        ...


class LogFlusher:
    """The logs of one worker's turns. `run` must be running."""

    def __init__(self, turn_log: TurnLog, clock: Clock, *, every_s: float = 0.25) -> None:
        """`every_s`: how long, at most, a log that is not urgent waits, in seconds."""
        self._turn_log = turn_log
        self._clock = clock
        self._every_s = every_s
        self._joined: set[WaitingLog] = set()
        # In the order in which they became due.
        self._urgent: dict[WaitingLog, None] = {}
        self._late: dict[WaitingLog, None] = {}
        self._is_due = asyncio.Event()
        self._has_late = asyncio.Event()

    def join(self, waiting: WaitingLog) -> None:
        """Log its events from now on."""
        self._joined.add(waiting)

    def leave(self, waiting: WaitingLog) -> None:
        """Log nothing more of it, and tell it nothing more of a call under way."""
        self._joined.discard(waiting)
        self._urgent.pop(waiting, None)
        self._late.pop(waiting, None)

    def urge(self, waiting: WaitingLog) -> None:
        """It is due in the next pass of the loop, or when the call under way is over."""
        if waiting in self._joined:
            self._urgent[waiting] = None
            self._is_due.set()

    def delay(self, waiting: WaitingLog) -> None:
        """It is due when the interval is over."""
        if waiting in self._joined:
            self._late[waiting] = None
            self._has_late.set()

    async def run(self) -> None:
        """Log what is due, until cancelled. Keeps trying while Redis is unavailable."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._ring())
            pause_s = FIRST_PAUSE_S
            while True:
                await self._is_due.wait()
                try:
                    await self.flush()
                    pause_s = FIRST_PAUSE_S
                except StoreUnavailable as error:
                    log.warning("events of %d turns not logged: %s", len(self._urgent), error)
                    await self._clock.sleep(pause_s)
                    pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    async def _ring(self) -> None:
        """One timer for all that can wait."""
        while True:
            await self._has_late.wait()
            await self._clock.sleep(self._every_s)
            self.ripen()

    def ripen(self) -> None:
        """The interval is over: what waited for that is due."""
        self._has_late.clear()
        self._urgent |= self._late
        self._late.clear()
        self._is_due.set()

    async def flush(self) -> None:
        """Log what is due. Raises `StoreUnavailable`; then what was not logged is due again."""
        self._is_due.clear()
        due, self._urgent = self._urgent, {}
        while due := {waiting: None for waiting in due if waiting in self._joined}:
            call = _next_call(due)
            if not call:
                break
            try:
                await self._append(call)
            except StoreUnavailable:
                for waiting in (*call, *due):
                    self.urge(waiting)
                raise

    async def _append(self, call: dict[WaitingLog, Events]) -> None:
        try:
            answers = await self.append(call)
        except StoreUnavailable as error:
            if len(call) == 1 or not is_answered(error):
                raise
            # Something of one of them makes the script fail: the others are logged without it.
            await self._append_each(call)
            return
        except Exception as error:  # noqa: BLE001 - it ends one turn's writer, not the worker
            if len(call) > 1:
                await self._append_each(call)
            else:
                next(iter(call)).fail(error)
            return
        for (waiting, batch), appended in zip(call.items(), answers, strict=True):
            if waiting in self._joined:
                _settle(waiting, batch, appended)

    async def _append_each(self, call: dict[WaitingLog, Events]) -> None:
        refused: dict[WaitingLog, StoreUnavailable] = {}
        for waiting, batch in call.items():
            try:
                await self._append({waiting: batch})
            except StoreUnavailable as error:
                refused[waiting] = error
        if len(refused) == len(call):
            raise next(iter(refused.values()))
        # It is not Redis that is unavailable: the others must not wait for these.
        for waiting, reason in refused.items():
            log.warning("events not logged: %s", reason, extra=fields(turn=waiting.turn))
            self.delay(waiting)

    async def append(self, call: dict[WaitingLog, Events]) -> Sequence[Appended]:
        """Append batches, whether their logs have joined or not. Raises `StoreUnavailable`."""
        return await self._turn_log.append_all(
            [TurnAppend(waiting.lease, waiting.turn, batch) for waiting, batch in call.items()]
        )


def _next_call(due: dict[WaitingLog, None]) -> dict[WaitingLog, Events]:
    """Takes as many out of the due logs as one call may have."""
    call: dict[WaitingLog, Events] = {}
    size = 0
    while due and len(call) < CALL_MAX_TURNS:
        waiting = next(iter(due))
        batch = waiting.batch()
        size += sum([len(payload) for _, payload in batch])
        if call and size > CALL_MAX_BYTES:
            break
        del due[waiting]
        if batch:
            call[waiting] = batch
    return call


def _settle(waiting: WaitingLog, batch: Events, appended: Appended) -> None:
    try:
        waiting.settle(batch, appended)
    except Exception as error:  # noqa: BLE001 - it ends its own turn's writer, not all others'
        waiting.fail(error)
