"""Clocks that move when told to, or stop."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable

from infra.runtime.clock import Clock, Timer


class ManualClock:
    """Time stands still until `advance`; sleepers wake in the order of their times."""

    def __init__(self, *, unix_ms: int = 1_700_000_000_000) -> None:
        self._now_s = 1000.0
        self._unix_ms = unix_ms - 1_000_000
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def monotonic(self) -> float:
        return self._now_s

    def unix_ms(self) -> int:
        return self._unix_ms + int(self._now_s * 1000)

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now_s + seconds, next(self._order), woken))
        await woken

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        return timer_of(self, seconds, callback)

    async def advance(self, seconds: float) -> None:
        """Let time pass, waking sleepers one by one and letting each run before the next."""
        await settle()
        until_s = self._now_s + seconds
        while self._sleepers and self._sleepers[0][0] <= until_s:
            at_s, _, woken = heapq.heappop(self._sleepers)
            if woken.done():
                continue
            self._now_s = max(self._now_s, at_s)
            woken.set_result(None)
            await settle()
        self._now_s = until_s
        await settle()

    def jump(self, seconds: float) -> None:
        """Time passes and nobody runs meanwhile: the process was frozen."""
        self._now_s += seconds


async def settle(passes: int = 25) -> None:
    """Let everything run that is ready to."""
    for _ in range(passes):
        await asyncio.sleep(0)


class FreezingClock:
    """The machine's clock, for a process that can be frozen: then its sleepers do not wake.

    What comes over sockets still gets through, as it does from the kernel's buffers after a thaw.
    """

    def __init__(self) -> None:
        self._awake = asyncio.Event()
        self._awake.set()

    def freeze(self) -> None:
        self._awake.clear()

    def thaw(self) -> None:
        self._awake.set()

    def monotonic(self) -> float:
        return time.monotonic()

    def unix_ms(self) -> int:
        return time.time_ns() // 1_000_000

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._awake.wait()

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        return timer_of(self, seconds, callback)


def timer_of(clock: Clock, seconds: float, callback: Callable[[], None]) -> Timer:
    """A timer that fires when a sleeper of that clock would wake."""

    async def later() -> None:
        await clock.sleep(seconds)
        callback()

    task: asyncio.Task[None] = asyncio.get_running_loop().create_task(later())
    return _TaskTimer(task)


class _TaskTimer:
    def __init__(self, task: asyncio.Task[None]) -> None:
        self._task = task

    def cancel(self) -> None:
        # A callback may cancel its own timer, and must not be cut off by that.
        if self._task is not asyncio.current_task():
            self._task.cancel()
