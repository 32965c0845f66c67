"""Lines of the agent's log name the turn that runs, as those of the other programs do.

An agent works on one turn at a time, and its tasks outlive turns, so what is said during a turn
belongs to it.
"""

from __future__ import annotations

import logging

from infra.wire.ids import TurnId

FORMAT = "%(levelname)s %(name)s: %(message)s%(turn)s"


class RunningTurnFilter(logging.Filter):
    """Gives each record the turn that runs, for `FORMAT`."""

    def __init__(self) -> None:
        super().__init__()
        self.turn: TurnId | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        record.turn = f" turn={self.turn}" if self.turn is not None else ""
        return True


running = RunningTurnFilter()
"""The one of this process: it has one agent."""
