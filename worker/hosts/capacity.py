"""What memory the host has left, as a worker's heartbeats see it, and whether that is enough.

A host without memory kills agents in the middle of their turns, so a worker starts nothing new when
another agent that used all it may would not fit.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from infra.runtime.logs import fields
from infra.wire.ids import ConversationKey

_MEMINFO = Path("/proc/meminfo")

log = logging.getLogger(__name__)


def available_memory_mb() -> int | None:
    """What new programs of this machine could use without swapping; None where nobody says.

    The kernel makes the figure up as it is read: no disk, tens of microseconds.
    """
    try:
        lines = _MEMINFO.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) // 1024
    return None


class HostMemory:
    """One worker's view. `look` with each heartbeat.

    A look does not see what an agent that starts will take. So those are counted beside it: from
    the moment one is `expect`ed until it is `settle`d and looked at.
    """

    def __init__(self, read_mb: Callable[[], int | None], *, needed_mb: int) -> None:
        """`needed_mb` is what has to be available before anything is started."""
        self.needed_mb = needed_mb
        self._read_mb = read_mb
        self._available_mb = read_mb()
        self._expected: set[ConversationKey] = set()
        self._settled: set[ConversationKey] = set()
        self._was_short = False

    @property
    def left_mb(self) -> int | None:
        """As of the last look, beside what agents that start will take: each as an idle one."""
        if self._available_mb is None:
            return None
        return self._available_mb - len(self._expected | self._settled) * IDLE_AGENT_MB

    @property
    def is_short(self) -> bool:
        """Whether nothing new should start."""
        return self.left_mb is not None and self.left_mb < self.needed_mb

    def expect(self, c: ConversationKey) -> None:
        """The conversation's agent is going to start."""
        self._expected.add(c)

    def settle(self, c: ConversationKey) -> None:
        """It has started, or will not; the next look will see it."""
        if c in self._expected:
            self._expected.discard(c)
            self._settled.add(c)

    def look(self) -> bool:
        """Read it anew. True when it suffices again."""
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


OVERCOMMIT = 4


def slots_for(*, configured: int, machine_mb: int, container_mb: int) -> int:
    """How many containers a worker owns at most.

    By memory, unless configured: three quarters of the machine at the 200 MB an idle agent takes,
    but never so many that their limits promise more than four times the machine. Several workers on
    one machine should be configured: each would take the whole of it.
    """
    if configured:
        return configured
    typical = int(machine_mb * MEMORY_SHARE / IDLE_AGENT_MB)
    promised = int(machine_mb * OVERCOMMIT / container_mb)
    return max(1, min(typical, promised))


def memory_needed_mb(*, container_mb: int, reserve_mb: int, machine_mb: int) -> int:
    """How much of a host's memory has to be available before a worker starts anything new.

    What one agent may use, and a reserve; at most half of the machine, or a small one would never
    start any.
    """
    return min(container_mb + reserve_mb, machine_mb // 2)
