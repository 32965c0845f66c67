"""A circuit breaker that decides whether a host's engine is used, as a pure state machine.

After Nygard ("Release It!", Stability Patterns). Closed: starts are allowed, and consecutive
failures are counted. Open: nothing is started here, so that turns go to another host instead of
failing one after the other. After a cool-down, one trial start decides (half-open).

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
"""Consecutive failures without a success in between. A name that is still being removed, or one
slow answer, can happen, even twice in a row; three times in a row, the turns are not the cause."""

_JITTER = 0.25
"""The workers of one host fail together, and should not all retry at the same moment."""


class BreakerState(StrEnum):
    """Whether the engine is used."""

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
    """`failures`: consecutive starts that failed. `trips`: how often it opened since it was last
    closed."""

    state: BreakerState = BreakerState.CLOSED
    failures: int = 0
    trips: int = 0

    @property
    def is_closed(self) -> bool:
        return self.state is BreakerState.CLOSED

    def start_failed(self) -> Breaker:
        """A conversation's start failed. Failures of starts that began earlier are ignored."""
        if not self.is_closed:
            return self
        failures = self.failures + 1
        if failures < FAILURES_MAX:
            return replace(self, failures=failures)
        return replace(self._to(BreakerState.OPEN), failures=failures, trips=1)

    def start_worked(self) -> Breaker:
        """A conversation's start succeeded."""
        return replace(self, failures=0) if self.is_closed else self

    def probing(self) -> Breaker:
        """The cool-down is over: try one start."""
        return self._to(BreakerState.HALF_OPEN)

    def probe_failed(self) -> Breaker:
        """The trial failed: use a longer cool-down."""
        return replace(self._to(BreakerState.OPEN), trips=self.trips + 1)

    def probe_worked(self) -> Breaker:
        """The trial succeeded: use the engine again."""
        return replace(self._to(BreakerState.CLOSED), failures=0, trips=0)

    def _to(self, state: BreakerState) -> Breaker:
        return replace(
            self, state=advance("breaker", self.state, state, BREAKER_TRANSITIONS, (self.state,))
        )


def cool_down_s(trips: int, *, first_s: float, longest_s: float) -> float:
    """Seconds to wait before the next trial; doubles after each failed one."""
    wait_s: float = min(first_s * 2 ** (max(trips, 1) - 1), longest_s)
    return wait_s * random.uniform(1 - _JITTER, 1 + _JITTER)
