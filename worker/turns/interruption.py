"""Whether a turn is to be stopped, and why. The first reason counts.

Shared by the runs of both lanes: what happens to a turn that is to be stopped is theirs to decide.
"""

from __future__ import annotations

import asyncio
from typing import Any

from infra.runtime.clock import Clock
from infra.wire.link import InterruptReason


class Interruption:
    """One turn's. Made in a running loop."""

    def __init__(self) -> None:
        self._reason: asyncio.Future[InterruptReason] = asyncio.get_running_loop().create_future()

    @property
    def reason(self) -> InterruptReason | None:
        """Why it is to be stopped; None: it is not."""
        return self._reason.result() if self._reason.done() else None

    def ask(self, reason: InterruptReason) -> bool:
        """Have it stopped; False when somebody wanted that before."""
        if self._reason.done():
            return False
        self._reason.set_result(reason)
        return True

    async def asked(self, clock: Clock, *, within_s: float) -> InterruptReason | None:
        """Wait until somebody wants it stopped, at most so long; then the reason, if there is one.

        Cancelled, it only stops waiting.
        """
        if not self._reason.done() and within_s > 0:
            async with asyncio.TaskGroup() as group:
                timer = group.create_task(clock.sleep(within_s))
                first: list[asyncio.Future[Any]] = [timer, self._reason]
                await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
                timer.cancel()
        return self.reason
