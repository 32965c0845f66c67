"""Processes in virtual time: frozen, killed and thawed between any two awaits, by a seed.

    kernel = Kernel(random.Random(seed))
    kernel.spawn(Process("worker"), work())
    kernel.run(until_s=60)

Not asyncio: a coroutine here waits for nothing but `pause`, so hours pass in no time, a frozen
process is simply not resumed, and a killed one runs no `finally` that awaits.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass
from itertools import count
from typing import Any

from infra.runtime.clock import Timer


@dataclass(eq=False)
class Process:
    """What lives, freezes and dies as one."""

    name: str
    is_dead: bool = False
    frozen_until_s: float = 0.0


class _Pause:
    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __await__(self) -> Generator[float, None, None]:
        yield self._seconds


async def pause(seconds: float) -> None:
    """The only thing there is to wait for."""
    await _Pause(seconds)


class Kernel:
    """Runs everything, one step at a time; what is due at once runs in an order chance decides."""

    def __init__(self, chance: random.Random) -> None:
        self.now_s = 0.0
        self._chance = chance
        self._order = count()
        self._due: list[tuple[float, float, int, Process, Coroutine[Any, Any, None]]] = []

    def spawn(self, process: Process, work: Coroutine[Any, Any, None]) -> None:
        """Begin `work` in the process, as soon as it runs."""
        self._push(self.now_s, process, work)

    def run(self, until_s: float) -> None:
        """Let time pass. What a process raises ends the run: expected errors stay inside."""
        while self._due and self._due[0][0] <= until_s:
            at_s, _, _, process, work = heapq.heappop(self._due)
            self.now_s = max(self.now_s, at_s)
            if process.is_dead:
                work.close()
            elif process.frozen_until_s > self.now_s:
                self._push(process.frozen_until_s, process, work)
            else:
                try:
                    seconds = work.send(None)
                except StopIteration:
                    continue
                self._push(self.now_s + seconds, process, work)
        self.now_s = max(self.now_s, until_s)

    def close(self) -> None:
        """End what still runs."""
        for *_, work in self._due:
            work.close()
        self._due.clear()

    def _push(self, at_s: float, process: Process, work: Coroutine[Any, Any, None]) -> None:
        entry = (at_s, self._chance.random(), next(self._order), process, work)
        heapq.heappush(self._due, entry)


class DriftingClock:
    """A process's own clock: begins anywhere, and runs a little fast or slow."""

    def __init__(
        self, kernel: Kernel, *, offset_s: float = 0.0, rate: float = 1.0, wall_ahead_s: float = 0.0
    ) -> None:
        """`wall_ahead_s`: by how much its machine's wall clock is wrong."""
        self._kernel = kernel
        self._offset_s = offset_s
        self._rate = rate
        self._wall_ahead_s = wall_ahead_s

    def monotonic(self) -> float:
        return self._offset_s + self._kernel.now_s * self._rate

    def unix_ms(self) -> int:
        return int((1_700_000_000 + self._wall_ahead_s + self._kernel.now_s) * 1000)

    def stand_still(self, seconds: float) -> None:
        """As if these seconds had not been: what no clock of a suspended machine counts."""
        self._offset_s -= seconds * self._rate

    async def sleep(self, seconds: float) -> None:
        await pause(max(0.0, seconds) / self._rate)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        raise NotImplementedError("what runs in virtual time sets no timers")
