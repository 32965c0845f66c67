"""How many spares a worker should have. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from worker.hosts.capacity import IDLE_AGENT_MB

DEMAND_WINDOW_S = 60.0
"""Starts within this time are the demand."""
LEAD_S = 15.0
"""Spares are kept for the starts of this long: a few times what making one takes."""


@dataclass(frozen=True)
class PoolFacts:
    """What the size depends on."""

    least: int
    most: int
    recent_starts: int
    """Conversations that wanted a container within `DEMAND_WINDOW_S`."""
    free_slots: int
    """Conversations that the worker may still take."""
    spares: int
    """What there is, or is being made."""
    spare_memory_mb: int | None
    """Available memory that nothing else needs; None if unknown. Negative if it is short."""


def wanted_spares(facts: PoolFacts) -> int:
    """The number of spares to keep.

    As many as start within `LEAD_S` at the present rate, between the floor and the ceiling; but
    never more than there are free slots, and none whose memory a real start would need.
    """
    demand = -(-facts.recent_starts * LEAD_S // DEMAND_WINDOW_S)
    wanted = min(max(facts.least, int(demand)), facts.most, facts.free_slots)
    if facts.spare_memory_mb is not None:
        wanted = min(wanted, facts.spares + facts.spare_memory_mb // IDLE_AGENT_MB)
    return max(0, wanted)
