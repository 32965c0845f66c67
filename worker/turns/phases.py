"""The phases of a turn's run and the steps between them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class RunPhase(StrEnum):
    """Where the run of a claimed turn is."""

    PREPARING = "preparing"
    """No agent has it."""
    ADOPTED = "adopted"
    """An agent has it from an owner before, and is not reached yet."""
    OPEN = "open"
    """The agent may have it from us, and may be working."""
    ENDED = "ended"
    """How it ends is decided."""


RUN_TRANSITIONS: Mapping[RunPhase, frozenset[RunPhase]] = {
    RunPhase.PREPARING: frozenset({RunPhase.OPEN, RunPhase.ENDED}),
    RunPhase.ADOPTED: frozenset({RunPhase.OPEN, RunPhase.ENDED}),
    # Open again after each reconnect.
    RunPhase.OPEN: frozenset({RunPhase.OPEN, RunPhase.ENDED}),
    RunPhase.ENDED: frozenset(),
}
RUN_BEGINS = (RunPhase.PREPARING, RunPhase.ADOPTED)
"""The phases a run may begin in."""
