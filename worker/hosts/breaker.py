"""When a host's engine is no longer asked: a circuit breaker, as a pure state machine.

After Nygard ("Release It!", Stability Patterns). Closed: starts go through, and failures in a row
are counted. Open: nothing is started here, so that turns find another host instead of failing one
after the other; after a cool-down one start is tried (half-open), which decides.

Only the engine's own failures are counted. What an agent does in its container says nothing about
its host.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from infra.wire.states import advance

FAILURES_MAX = 3
"""In a row, without a success between: a name still being removed or one slow answer happens, and
a turn may be unlucky twice; three times in a row it is not the turns."""

_JITTER = 0.25
"""Workers of one host fail together; they should not all try again at once."""


class BreakerState(StrEnum):
    """Whether the engine is asked."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


BREAKER_TRANSITIONS: Mapping[BreakerState, frozenset[BreakerState]] = {
    BreakerState.CLOSED: frozenset({BreakerState.OPEN}),
    BreakerState.OPEN: frozenset({BreakerState.HALF_OPEN}),
    BreakerState.HALF_OPEN: frozenset({BreakerState.CLOSED, BreakerState.OPEN}),
}


@dataclass(frozen=True)
class Breaker:
    """`failures`: starts in a row that failed. `trips`: how often it opened since it was closed."""

    state: BreakerState = BreakerState.CLOSED
    failures: int = 0
    trips: int = 0

    @property
    def is_closed(self) -> bool:
        return self.state is BreakerState.CLOSED

    def start_failed(self) -> Breaker:
        """A conversation's start has failed. Late news, of one that began earlier, is ignored."""
        if not self.is_closed:
            return self
        failures = self.failures + 1
        if failures < FAILURES_MAX:
            return replace(self, failures=failures)
        return replace(self._to(BreakerState.OPEN), failures=failures, trips=1)

    def start_worked(self) -> Breaker:
        """A conversation's start has worked."""
        return replace(self, failures=0) if self.is_closed else self

    def probing(self) -> Breaker:
        """The cool-down is over: one start is tried."""
        return self._to(BreakerState.HALF_OPEN)

    def probe_failed(self) -> Breaker:
        """Not yet: a longer cool-down."""
        return replace(self._to(BreakerState.OPEN), trips=self.trips + 1)

    def probe_worked(self) -> Breaker:
        """The engine works again."""
        return replace(self._to(BreakerState.CLOSED), failures=0, trips=0)

    def _to(self, state: BreakerState) -> Breaker:
        return replace(
            self, state=advance("breaker", self.state, state, BREAKER_TRANSITIONS, (self.state,))
        )


def cool_down_s(trips: int, *, first_s: float, longest_s: float) -> float:
    """How long to wait before the next probe: twice as long after each one that failed."""
    wait_s: float = min(first_s * 2 ** (max(trips, 1) - 1), longest_s)
    return wait_s * random.uniform(1 - _JITTER, 1 + _JITTER)
