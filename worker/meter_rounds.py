"""Looks at what the running turns of a worker use, at all of them in one round every few seconds.

One loop for all: a turn that ends before the next round costs nothing here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from infra.runtime.clock import Clock
from infra.wire.errors import LeaseLost
from worker.ownership import HeldLease

log = logging.getLogger(__name__)

Look = Callable[[], Awaitable[None]]
"""Books what one turn has used since the last look. Raises `LeaseLost`."""


@dataclass
class _Followed:
    look: Look
    held: HeldLease
    looking: asyncio.Task[None] | None = None


class MeterRounds:
    """The rounds of one worker. `run` is their task."""

    def __init__(self, clock: Clock, *, every_s: float) -> None:
        self._clock = clock
        self._every_s = every_s
        self._followed: dict[Look, _Followed] = {}

    @asynccontextmanager
    async def following(self, look: Look, held: HeldLease) -> AsyncIterator[None]:
        """Include a turn that runs under that lease. If a look finds that the lease is lost, the
        lease tells its owner.

        No look is under way after the block: a late one could open the turn at the gateway again.
        """
        followed = self._followed[look] = _Followed(look, held)
        try:
            yield
        finally:
            del self._followed[look]
            if followed.looking is not None:
                followed.looking.cancel()
                await asyncio.wait({followed.looking})

    async def run(self) -> None:
        """Make rounds until cancelled."""
        while True:
            await self._clock.sleep(self._every_s)
            async with asyncio.TaskGroup() as group:
                for followed in self._followed.values():
                    followed.looking = group.create_task(_looked(followed))


async def _looked(followed: _Followed) -> None:
    try:
        await followed.look()
    except LeaseLost:
        followed.held.lose()
    except Exception:
        # One turn's figures must not end the rounds of all.
        log.exception("a turn's usage was not booked")
    finally:
        followed.looking = None
