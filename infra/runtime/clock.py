"""Time as a dependency, so that tests can control it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """A call that is still to come."""

    def cancel(self) -> None:
        """Do not make it. No error if it was made."""
        ...


class Clock(Protocol):
    """The clock that programs use."""

    def monotonic(self) -> float:
        """Seconds, for differences only. They include time during which the machine is suspended,
        because leases in Redis expire meanwhile."""
        ...

    def unix_ms(self) -> int:
        """Unix time in milliseconds, for display and expiry. Never compare it between machines."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait. Can be cancelled like any await."""
        ...

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call this after a time, from the running loop."""
        ...


_SUSPENDED_OR_NOT: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""A clock that keeps running while the machine is suspended. On macOS that is CLOCK_MONOTONIC.
Python's `time.monotonic` stops there, and so does CLOCK_MONOTONIC on Linux."""


class SystemClock:
    """The machine's clock."""

    def monotonic(self) -> float:
        return time.clock_gettime(_SUSPENDED_OR_NOT)

    def unix_ms(self) -> int:
        return time.time_ns() // 1_000_000

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        return asyncio.get_running_loop().call_later(seconds, callback)
