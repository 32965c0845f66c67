"""Calls to the store that outlive their request and are made reliably.

A request that is being cancelled may not finish a call to Redis, so it only adds the call here. One
loop of the process makes these calls, and retries while Redis is unavailable.
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


@dataclass(frozen=True, eq=False)
class _DeferredCall:
    what: str
    turn: TurnId
    run: Callable[[], Awaitable[object]]
    since_s: float
    """When it is tried first."""


class DeferredCalls:
    """Makes the calls that requests leave behind. `run()` does the work."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: asyncio.Queue[_DeferredCall] = asyncio.Queue(WAITING_MAX)
        self._later: dict[_DeferredCall, asyncio.TimerHandle] = {}

    def add(
        self,
        what: str,
        turn: TurnId,
        run: Callable[[], Awaitable[object]],
        *,
        after_s: float = 0.0,
    ) -> None:
        """Have `run` called, repeatedly while it raises `StoreUnavailable`. Returns at once.

        The call is made after `after_s` seconds, or at shutdown. If the turn is gone by then, no
        call is needed.
        """
        call = _DeferredCall(what, turn, run, self._clock.monotonic() + after_s)
        if not after_s or len(self._later) >= WAITING_MAX:
            self._put(call)
            return
        timer = asyncio.get_running_loop().call_later(after_s, self._ripen, call)
        self._later[call] = timer

    def hurry(self) -> None:
        """The process shuts down: make delayed calls now."""
        for call, timer in list(self._later.items()):
            timer.cancel()
            self._ripen(call)

    def _ripen(self, call: _DeferredCall) -> None:
        del self._later[call]
        self._put(call)

    def _put(self, call: _DeferredCall) -> None:
        what, turn = call.what, call.turn
        try:
            self._waiting.put_nowait(call)
        except asyncio.QueueFull:
            # Redis was unavailable for long and thousands left: their turns end at their deadline.
            log.warning("not carried out: too many wait", extra=fields(what=what, turn=turn))

    async def run(self) -> None:
        """Make the calls, until cancelled."""
        while True:
            await self._carry_out(await self._waiting.get())
            self._waiting.task_done()

    async def settled(self) -> None:
        """Wait until all calls added so far, except delayed ones, are made."""
        await self._waiting.join()

    async def _carry_out(self, call: _DeferredCall) -> None:
        told = fields(what=call.what, turn=call.turn)
        while True:
            try:
                await call.run()
            except TurnNotFound:
                return
            except StoreUnavailable:
                if self._clock.monotonic() - call.since_s > GIVE_UP_S:
                    log.warning("not carried out: the store is away", extra=told)
                    return
                await self._clock.sleep(RETRY_S)
            else:
                log.info("carried out", extra=told)
                return
