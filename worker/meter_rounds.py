"""Looks at what the running turns of a worker use, at all of them in one round every few seconds.

One loop for all: a turn that ends before the next round costs nothing here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from infra.runtime.clock import Clock
from infra.wire.errors import LeaseLost
from worker.ownership import HeldLease

log = logging.getLogger(__name__)

Look = Callable[[], Awaitable[None]]
"""Books what one turn has used since the last look. Raises `LeaseLost`."""


class MeterRounds:
    """The rounds of one worker. `run` is their task."""

    def __init__(self, clock: Clock, *, every_s: float) -> None:
        self._clock = clock
        self._every_s = every_s
        self._followed: dict[Look, HeldLease] = {}

    @contextmanager
    def following(self, look: Look, held: HeldLease) -> Iterator[None]:
        """Include a turn that runs under that lease. If a look finds that the lease is lost, the
        lease tells its owner."""
        self._followed[look] = held
        try:
            yield
        finally:
            del self._followed[look]

    async def run(self) -> None:
        """Make rounds until cancelled."""
        while True:
            await self._clock.sleep(self._every_s)
            async with asyncio.TaskGroup() as group:
                for look, held in self._followed.items():
                    group.create_task(_looked(look, held))


async def _looked(look: Look, held: HeldLease) -> None:
    try:
        await look()
    except LeaseLost:
        held.lose()
    except Exception:
        # One turn's figures must not end the rounds of all.
        log.exception("a turn's usage was not booked")
