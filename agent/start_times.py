"""When this agent reached the phases of its start. The worker logs it; nothing depends on it."""

from __future__ import annotations

import time

from infra.wire.link import AgentTimes


class StartTimes:
    """The times of this process and of its first CLI."""

    def __init__(self, *, python_ms: int) -> None:
        """`python_ms`: when its first line ran, in Unix ms."""
        self._times = AgentTimes(python_ms=python_ms)

    @property
    def told(self) -> AgentTimes:
        """The message for the worker."""
        return self._times

    @property
    def has_cli(self) -> bool:
        """Whether the first CLI is connected, so that everything is known."""
        return self._times.cli_connected_ms is not None

    def note_listening(self) -> None:
        """The agent's socket is there."""
        self._times = self._times.model_copy(update={"listening_ms": now_ms()})

    def note_cli(self, *, spawned_ms: int) -> None:
        """The CLI that was started then is connected now."""
        times = {"cli_spawned_ms": spawned_ms, "cli_connected_ms": now_ms()}
        self._times = self._times.model_copy(update=times)


def now_ms() -> int:
    """Unix time in milliseconds."""
    return time.time_ns() // 1_000_000
