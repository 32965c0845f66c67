"""The phases of a turn's run, and the transitions between them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class RunPhase(StrEnum):
    """The phase of a claimed turn's run."""

    PREPARING = "preparing"
    """No agent has it."""
    ADOPTED = "adopted"
    """An agent has it from a previous owner, and was not reached yet."""
    OPEN = "open"
    """The agent may have got it from us, and may be working."""
    ENDED = "ended"
    """Its end is decided."""


RUN_TRANSITIONS: Mapping[RunPhase, frozenset[RunPhase]] = {
    RunPhase.PREPARING: frozenset({RunPhase.OPEN, RunPhase.ENDED}),
    RunPhase.ADOPTED: frozenset({RunPhase.OPEN, RunPhase.ENDED}),
    # Open again after each reconnect.
    RunPhase.OPEN: frozenset({RunPhase.OPEN, RunPhase.ENDED}),
    RunPhase.ENDED: frozenset(),
}
RUN_BEGINS = (RunPhase.PREPARING, RunPhase.ADOPTED)
"""The phases in which a run may start."""
