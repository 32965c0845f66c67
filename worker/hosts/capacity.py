"""The host's available memory, as its workers see it, and whether it is enough.

A host without memory kills agents in the middle of their turns. So idle agents go when it becomes
low, and a worker starts nothing new if another agent that used its full limit would not fit.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from infra.runtime.logs import fields
from infra.wire.ids import ConversationKey

log = logging.getLogger(__name__)


def available_memory_mb(meminfo: Path) -> int | None:
    """The memory that new programs could use without swapping; None if the file does not say.

    The kernel computes the figure when it is read: no disk access, tens of microseconds.
    """
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) // 1024
    return None


def memory_reader(meminfo: Path) -> Callable[[], int | None]:
    """Reads the available memory from this file, which has the format of `/proc/meminfo`."""
    return partial(available_memory_mb, meminfo)


class HostMemory:
    """One worker's view, updated by `look`: each second, and with each heartbeat.

    A look does not show what an agent that is starting will use. So starting agents are counted
    separately: from `expect` until `settle` and the next look.
    """

    def __init__(self, read_mb: Callable[[], int | None], *, needed_mb: int) -> None:
        """`needed_mb` must be available before anything is started."""
        self.needed_mb = needed_mb
        self._read_mb = read_mb
        self._available_mb = read_mb()
        self._expected: set[ConversationKey] = set()
        self._settled: set[ConversationKey] = set()
        self._was_short = False
        self.spares = 0
        """Spare agents of this worker. They give way to a start, or serve it."""

    @property
    def left_mb(self) -> int | None:
        """The available memory at the last look, minus what starting agents will use, each as an
        idle one, plus what spares would give back."""
        if (free_mb := self._free_mb) is None:
            return None
        return free_mb + self.spares * SPARE_MB

    def beyond_mb(self, mark_mb: int) -> int | None:
        """The available memory beyond this mark; negative if even that is lacking, None if unknown.
        What spares would give back does not count."""
        return None if (free_mb := self._free_mb) is None else free_mb - mark_mb

    @property
    def _free_mb(self) -> int | None:
        if self._available_mb is None:
            return None
        return self._available_mb - len(self._expected | self._settled) * IDLE_AGENT_MB

    @property
    def is_short(self) -> bool:
        """Whether nothing new should start."""
        return self.left_mb is not None and self.left_mb < self.needed_mb

    def expect(self, c: ConversationKey) -> None:
        """The conversation's agent is about to start."""
        self._expected.add(c)

    def settle(self, c: ConversationKey) -> None:
        """It has started, or will not; the next look includes it."""
        if c in self._expected:
            self._expected.discard(c)
            self._settled.add(c)

    def look(self) -> bool:
        """Read the memory again. True if it has become enough again."""
        self._available_mb = self._read_mb()
        self._settled.clear()
        was_short, self._was_short = self._was_short, self.is_short
        if self._was_short and not was_short:
            log.warning(
                "memory is short, nothing new is started",
                extra=fields(
                    available_mb=self._available_mb, left_mb=self.left_mb, needed_mb=self.needed_mb
                ),
            )
        elif was_short and not self._was_short:
            log.info("memory suffices again", extra=fields(available_mb=self._available_mb))
        return was_short and not self._was_short


MEMORY_SHARE = 0.75


IDLE_AGENT_MB = 200
SPARE_MB = 140
"""What stopping a spare gives back: it has not worked yet."""


OVERCOMMIT = 4


def slots_for(*, configured: int, machine_mb: int, container_mb: int) -> int:
    """The maximum number of containers of a worker.

    By memory, unless configured: three quarters of the machine at 200 MB per idle agent, but never
    so many that their limits add up to more than four times the machine. Configure it if several
    workers share a machine, because each would count all of its memory.
    """
    if configured:
        return configured
    typical = int(machine_mb * MEMORY_SHARE / IDLE_AGENT_MB)
    promised = int(machine_mb * OVERCOMMIT / container_mb)
    return max(1, min(typical, promised))


def memory_needed_mb(*, container_mb: int, reserve_mb: int, machine_mb: int) -> int:
    """How much of a host's memory must be available before a worker starts anything new.

    What one agent may use, plus a reserve; at most half of the machine, because a small machine
    would otherwise never start anything.
    """
    return min(container_mb + reserve_mb, machine_mb // 2)


@dataclass(frozen=True)
class WaterMarks:
    """Between which amounts of available memory idle conversations are hibernated."""

    low_mb: int
    """They start to go when less is available..."""
    high_mb: int
    """...and go on until this much is."""


def water_marks(*, needed_mb: int, low_mb: int, high_mb: int) -> WaterMarks:
    """The marks of a host. Where one is 0, it follows from the other figures.

    By default the low mark lets one more agent start before nothing new may (`needed_mb`), and the
    high one is two agents above it, so that few go at a time.
    """
    low_mb = low_mb or needed_mb + IDLE_AGENT_MB
    return WaterMarks(low_mb, max(high_mb or low_mb + 2 * IDLE_AGENT_MB, low_mb))
