"""What processes spent, by the scheduler's own count in ns (Linux only)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

Roles = Mapping[str, Sequence[int]]
"""Process ids by what they are: `api`, `worker`, `redis`, `agents`, `client`."""
OURS = ("api", "worker", "redis")
CLIENT = "client"


def with_client(roles: Roles) -> Roles:
    """Also the process that asks, which is this one."""
    return {**roles, CLIENT: [os.getpid()]}


def spent_ns(pid: int) -> int:
    """CPU time of a process' living threads; 0 for one that is gone, or off Linux."""
    total = 0
    for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            total += int(thread.read_text().split()[0])
        except (OSError, IndexError):  # It ended while we looked.
            continue
    return total


@dataclass
class Spent:
    """CPU seconds by role between `begin` and `end`."""

    roles: Roles
    by_role: dict[str, float] = field(default_factory=dict)
    _before: dict[str, int] = field(default_factory=dict)

    def begin(self) -> None:
        self._before = self._now()

    def end(self) -> None:
        """Add what was spent since `begin`."""
        for role, ns in self._now().items():
            self.by_role[role] = self.by_role.get(role, 0.0) + (ns - self._before[role]) / 1e9

    @property
    def measured_s(self) -> float:
        """All but the client and the agents: what stands between them."""
        return sum(s for role, s in self.by_role.items() if role not in (CLIENT, "agents"))

    def _now(self) -> dict[str, int]:
        return {role: sum(map(spent_ns, pids)) for role, pids in self.roles.items()}


def held_kib(pid: int) -> int:
    """The process' share of the pages it has in memory (PSS)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0
