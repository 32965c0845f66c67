"""Clients that hang up: their turns are cancelled, surely but beside the request.

A request that is being torn down cannot be trusted to finish a call to Redis, so it only leaves a
note here; one loop of the process carries the notes out and tries again while Redis is away.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Protocol

from infra.runtime.clock import Clock
from infra.runtime.logs import fields
from infra.wire.errors import StoreUnavailable, TurnNotFound
from infra.wire.ids import TenantId, TurnId
from infra.wire.states import TurnState

log = logging.getLogger(__name__)

WAITING_MAX = 10_000
GIVE_UP_S = 60.0
RETRY_S = 0.5


class Canceller(Protocol):
    """Asks for the end of turns (`infra.store.turns.TurnStore`)."""

    async def cancel(self, turn: TurnId, *, tenant: TenantId, reason: str) -> TurnState: ...


@dataclass(frozen=True)
class _Hangup:
    turn: TurnId
    tenant: TenantId
    at_s: float


class Hangups:
    """Cancels the turns of clients that are gone. `run()` does the work."""

    def __init__(self, turns: Canceller, clock: Clock) -> None:
        self._turns = turns
        self._clock = clock
        self._waiting: asyncio.Queue[_Hangup] = asyncio.Queue(WAITING_MAX)

    def tell(self, turn: TurnId, tenant: TenantId) -> None:
        """The client of this turn is gone. Returns at once."""
        try:
            self._waiting.put_nowait(_Hangup(turn, tenant, self._clock.monotonic()))
        except asyncio.QueueFull:
            # Redis has been away for long and thousands left: their turns end by their deadline.
            log.warning("hang-up not carried out: too many wait", extra=fields(turn=turn))

    async def run(self) -> None:
        """Carry out what is told, until cancelled."""
        while True:
            await self._carry_out(await self._waiting.get())
            self._waiting.task_done()

    async def settled(self) -> None:
        """Until all that was told so far is carried out."""
        await self._waiting.join()

    async def _carry_out(self, hangup: _Hangup) -> None:
        while True:
            try:
                state = await self._turns.cancel(
                    hangup.turn, tenant=hangup.tenant, reason="the client hung up"
                )
            except TurnNotFound:
                return
            except StoreUnavailable:
                if self._clock.monotonic() - hangup.at_s > GIVE_UP_S:
                    log.warning("hang-up not carried out", extra=fields(turn=hangup.turn))
                    return
                await self._clock.sleep(RETRY_S)
            else:
                log.info("client hung up", extra=fields(turn=hangup.turn, state=state.value))
                return
