"""The time limits of one turn: its deadline, and the grace of an agent that was told to stop.

Timers instead of tasks that wait: most turns end long before the first of them, and each would cost
as much as one of the turn's scripts.
"""

from __future__ import annotations

from collections.abc import Callable

from infra.runtime.clock import Clock, Timer


class TimeLimits:
    """The timers of one turn. Each fires at most once, and none after `stop`."""

    def __init__(
        self,
        clock: Clock,
        *,
        grace_s: float,
        on_deadline: Callable[[], None],
        on_grace_over: Callable[[], None],
        on_overrun_over: Callable[[], None],
    ) -> None:
        """`grace_s` is the time to end that an interrupted agent has, and one without budget."""
        self._clock = clock
        self._grace_s = grace_s
        self._on_deadline = on_deadline
        self._on_grace_over = on_grace_over
        self._on_overrun_over = on_overrun_over
        self._deadline: Timer | None = None
        self._grace: Timer | None = None
        self._overrun: Timer | None = None
        self._is_stopped = False

    def start(self, *, left_s: float) -> None:
        """The turn runs, and has this long. It may have been interrupted already."""
        if self._grace is None and not self._is_stopped:
            self._deadline = self._clock.call_later(max(0.0, left_s), self._on_deadline)

    def interrupted(self) -> None:
        """The turn was told to stop: from now on the grace counts, not the deadline."""
        if self._grace is None and not self._is_stopped:
            _cancel(self._deadline)
            self._grace = self._clock.call_later(self._grace_s, self._on_grace_over)

    def overrun(self) -> None:
        """The agent's calls are refused for want of budget, which lets an honest one end."""
        if self._overrun is None and not self._is_stopped:
            self._overrun = self._clock.call_later(self._grace_s, self._on_overrun_over)

    def stop(self) -> None:
        """The turn's end is decided, or somebody else's business."""
        self._is_stopped = True
        for timer in (self._deadline, self._grace, self._overrun):
            _cancel(timer)


def _cancel(timer: Timer | None) -> None:
    if timer is not None:
        timer.cancel()
