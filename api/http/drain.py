"""A replica that shuts down: it reports not ready, lets streams run for a while, then ends them
cleanly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Cut = Callable[[], None]


class Drain:
    """Knows whether this replica is shutting down, and whom to tell when the drain time is over."""

    def __init__(self) -> None:
        self.is_draining = False
        self.is_closed = False
        self._open: dict[object, Cut] = {}

    @property
    def open_count(self) -> int:
        """The number of running answers."""
        return len(self._open)

    def begin(self) -> None:
        """Report not ready. Open answers continue, and new requests are still served."""
        self.is_draining = True

    def close(self) -> None:
        """Load balancers know by now: refuse new answers."""
        self.is_closed = True

    def cut(self) -> None:
        """The drain time is over: tell every running answer to end now."""
        for tell in list(self._open.values()):
            tell()

    @contextmanager
    def holds(self, cut: Cut) -> Iterator[None]:
        """An answer is running; `cut` is called if it has to end early."""
        ticket = object()
        self._open[ticket] = cut
        try:
            yield
        finally:
            del self._open[ticket]
