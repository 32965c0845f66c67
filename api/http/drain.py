"""A replica on its way out: readiness off, streams get a while, then a clean end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Cut = Callable[[], None]


class Drain:
    """Knows whether this replica is leaving, and whom to tell when the grace is over."""

    def __init__(self) -> None:
        self.is_draining = False
        self.is_closed = False
        self._open: dict[object, Cut] = {}

    @property
    def open_count(self) -> int:
        """Answers under way."""
        return len(self._open)

    def begin(self) -> None:
        """Readiness off. What is open goes on, and what still comes is served."""
        self.is_draining = True

    def close(self) -> None:
        """Balancers know by now: no new answers."""
        self.is_closed = True

    def cut(self) -> None:
        """The grace is over: every answer under way is told to end now."""
        for tell in list(self._open.values()):
            tell()

    @contextmanager
    def holds(self, cut: Cut) -> Iterator[None]:
        """An answer is under way; `cut` is called when it has to end early."""
        ticket = object()
        self._open[ticket] = cut
        try:
            yield
        finally:
            del self._open[ticket]
