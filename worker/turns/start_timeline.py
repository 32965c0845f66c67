"""When the phases of one agent's start were reached, for one line in the log.

A start lasts from a turn's request to its first delta. Each part notes its phase here; the
agent reports its own phases itself (`infra.wire.link.AgentTimes`). Its clock is this machine's. The
time of the request is Redis' own, so on several machines all figures are as wrong as their clocks
differ.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import StrEnum

from infra.metrics.worker import AGENT_STARTS, START_SECONDS
from infra.runtime.clock import Clock
from infra.runtime.logs import fields
from infra.store.turns.records import TurnRecord
from infra.wire.link import AgentTimes

log = logging.getLogger(__name__)

EVENT = "agent ready"
"""The line's event. `tests.bench.start_times` reads it."""


class StartPhase(StrEnum):
    """What has been reached, in the usual order. Some of it happens side by side."""

    CLAIMED = "claimed"
    CLAIMED_SPARE = "spare"
    """A spare has become its container. Then the next phases, up to the link, were long ago."""
    SLOT = "slot"
    """The host has a start slot for it."""
    FOLDERS = "folders"
    GATEWAY = "gateway"
    """The gateway listens for it."""
    CREATED = "created"
    """The engine has made the container, and starts it."""
    STARTED = "started"
    PYTHON = "python"
    """The agent's first line runs."""
    LISTENING = "listening"
    LINKED = "linked"
    TOLD = "told"
    """The turn was sent to the agent."""
    CLI_SPAWNED = "cli_spawned"
    CLI_CONNECTED = "cli_connected"
    SPOKE = "spoke"
    """The first event of the turn is here."""
    FIRST_DELTA = "first_delta"


Note = Callable[[StartPhase], None]
"""Called at the moment when a phase is reached."""


def unnoted(phase: StartPhase) -> None:
    """For a caller that nobody times."""


class StartTimeline:
    """The phases of the start for one turn."""

    def __init__(self, clock: Clock, record: TurnRecord, *, isolation: str) -> None:
        """`isolation` is the name of the container host. The turn was claimed just now."""
        self._clock = clock
        self._record = record
        self._isolation = isolation
        self._reached_ms: dict[StartPhase, int] = {}
        self.is_resumed = False
        """Whether the agent got a transcript to go on from."""
        self.note(StartPhase.CLAIMED)

    def note(self, phase: StartPhase) -> None:
        """The phase is reached now. Its first time counts."""
        self.note_at(phase, self._clock.unix_ms())

    def note_at(self, phase: StartPhase, unix_ms: int | None) -> None:
        """The phase was reached at this time; None: nobody knows."""
        if unix_ms is not None:
            self._reached_ms.setdefault(phase, unix_ms)

    def take(self, times: AgentTimes) -> None:
        """What the agent reports of itself. It is only logged, and may be false."""
        self.note_at(StartPhase.PYTHON, times.python_ms)
        self.note_at(StartPhase.LISTENING, times.listening_ms)
        self.note_at(StartPhase.CLI_SPAWNED, times.cli_spawned_ms)
        self.note_at(StartPhase.CLI_CONNECTED, times.cli_connected_ms)

    def tell(self) -> None:
        """Log it: milliseconds since the request, in the order of phases."""
        asked_ms = self._record.created_ms
        spent = {
            f"{phase}_ms": self._reached_ms[phase] - asked_ms
            for phase in StartPhase
            if phase in self._reached_ms
        }
        for phase, reached_ms in self._reached_ms.items():
            START_SECONDS.labels(phase.value).observe(max(0, reached_ms - asked_ms) / 1000)
        has_spare = StartPhase.CLAIMED_SPARE in self._reached_ms
        AGENT_STARTS.labels("spare" if has_spare else "container").inc()
        about = fields(
            turn=self._record.turn,
            conversation=self._record.conversation,
            isolation=self._isolation,
            resumed=self.is_resumed,
            **spent,
        )
        log.info(EVENT, extra=about)
