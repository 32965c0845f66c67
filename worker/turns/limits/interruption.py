"""Whether a turn should be stopped, and why. The first reason counts.

Used by the runs of both lanes, which decide what happens to such a turn.
"""

from __future__ import annotations

import asyncio
from typing import Any

from infra.runtime.clock import Clock
from infra.wire.link import InterruptReason


class Interruption:
    """The interruption of one turn. Create it in a running loop."""

    def __init__(self) -> None:
        self._reason: asyncio.Future[InterruptReason] = asyncio.get_running_loop().create_future()

    @property
    def reason(self) -> InterruptReason | None:
        """Why it should be stopped; None if it should not."""
        return self._reason.result() if self._reason.done() else None

    def ask(self, reason: InterruptReason) -> bool:
        """Request a stop. False if it was requested before."""
        if self._reason.done():
            return False
        self._reason.set_result(reason)
        return True

    async def asked(self, clock: Clock, *, within_s: float) -> InterruptReason | None:
        """Wait until a stop is requested, at most this long. Returns the reason, if there is one.

        If cancelled, it only stops waiting.
        """
        if not self._reason.done() and within_s > 0:
            async with asyncio.TaskGroup() as group:
                timer = group.create_task(clock.sleep(within_s))
                first: list[asyncio.Future[Any]] = [timer, self._reason]
                await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
                timer.cancel()
        return self.reason
