"""What is left to be told to the store when a request is over: surely, but beside the request.

A request that is being torn down cannot be trusted to finish a call to Redis, so it only leaves a
note here; one loop of the process carries the notes out and tries again while Redis is away.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from infra.runtime.clock import Clock
from infra.runtime.logs import fields
from infra.wire.errors import StoreUnavailable, TurnNotFound
from infra.wire.ids import TurnId

log = logging.getLogger(__name__)

WAITING_MAX = 10_000
GIVE_UP_S = 60.0
RETRY_S = 0.5


@dataclass(frozen=True)
class _Errand:
    what: str
    turn: TurnId
    run: Callable[[], Awaitable[object]]
    at_s: float


class Errands:
    """Carries out what requests leave behind. `run()` does the work."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: asyncio.Queue[_Errand] = asyncio.Queue(WAITING_MAX)

    def leave(self, what: str, turn: TurnId, run: Callable[[], Awaitable[object]]) -> None:
        """Have `run` called, again and again while it raises `StoreUnavailable`. Returns at once.

        A turn that is gone by then needs no errand.
        """
        try:
            self._waiting.put_nowait(_Errand(what, turn, run, self._clock.monotonic()))
        except asyncio.QueueFull:
            # Redis has been away for long and thousands left: their turns end by their deadline.
            log.warning("not carried out: too many wait", extra=fields(what=what, turn=turn))

    async def run(self) -> None:
        """Carry out what is left, until cancelled."""
        while True:
            await self._carry_out(await self._waiting.get())
            self._waiting.task_done()

    async def settled(self) -> None:
        """Until all that was left so far is carried out."""
        await self._waiting.join()

    async def _carry_out(self, errand: _Errand) -> None:
        told = fields(what=errand.what, turn=errand.turn)
        while True:
            try:
                await errand.run()
            except TurnNotFound:
                return
            except StoreUnavailable:
                if self._clock.monotonic() - errand.at_s > GIVE_UP_S:
                    log.warning("not carried out: the store is away", extra=told)
                    return
                await self._clock.sleep(RETRY_S)
            else:
                log.info("carried out", extra=told)
                return
