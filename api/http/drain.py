"""A replica that shuts down: it reports not ready, lets streams run for a while, then ends them
cleanly."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType

Cut = Callable[[], None]


class Drain:
    """Knows whether this replica is shutting down, and whom to tell when the drain time is over."""

    def __init__(self) -> None:
        self.is_draining = False
        self.is_closed = False
        self._open: dict[AbstractContextManager[None], Cut] = {}

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

    def holds(self, cut: Cut) -> AbstractContextManager[None]:
        """In its block, an answer is running; `cut` is called if it has to end early."""
        return _Ticket(self._open, cut)


class _Ticket(AbstractContextManager[None]):
    """A running answer. (A generator would take three times the memory for as long as it runs.)"""

    __slots__ = ("_cut", "_open")

    def __init__(self, running: dict[AbstractContextManager[None], Cut], cut: Cut) -> None:
        self._open = running
        self._cut = cut

    def __enter__(self) -> None:
        self._open[self] = self._cut

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        del self._open[self]
