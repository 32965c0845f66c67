"""Time as a dependency, so that tests can make it pass."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """What the programs ask of time."""

    def monotonic(self) -> float:
        """Seconds, only for differences. They pass while the machine is suspended, too: a lease
        ends in Redis meanwhile."""
        ...

    def unix_ms(self) -> int:
        """Unix time in milliseconds; for display and expiry, never to decide between machines."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait; cancelled like any await."""
        ...


_SUSPENDED_OR_NOT: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""The clock that a suspended machine does not stop. On macOS that is CLOCK_MONOTONIC; what Python
calls monotonic stands still there, as CLOCK_MONOTONIC does on Linux."""


class SystemClock:
    """The machine's clock."""

    def monotonic(self) -> float:
        return time.clock_gettime(_SUSPENDED_OR_NOT)

    def unix_ms(self) -> int:
        return time.time_ns() // 1_000_000

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
