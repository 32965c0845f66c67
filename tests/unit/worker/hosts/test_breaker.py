"""When a host's engine is asked, and when not: the table and its edges."""

from __future__ import annotations

import pytest

from infra.wire.errors import IllegalTransition
from worker.hosts.breaker import (
    BREAKER_TRANSITIONS,
    FAILURES_MAX,
    Breaker,
    BreakerState,
    cool_down_s,
)


def opened() -> Breaker:
    breaker = Breaker()
    for _ in range(FAILURES_MAX):
        breaker = breaker.start_failed()
    return breaker


def test_it_opens_after_so_many_failures_in_a_row() -> None:
    breaker = Breaker()
    for _ in range(FAILURES_MAX - 1):
        breaker = breaker.start_failed()
        assert breaker.is_closed
    assert breaker.start_failed().state is BreakerState.OPEN


def test_a_success_between_two_failures_begins_the_count_again() -> None:
    breaker = Breaker()
    for _ in range(3 * FAILURES_MAX):
        breaker = breaker.start_failed().start_worked()
    assert breaker == Breaker()


def test_a_probe_that_works_closes_it_as_good_as_new() -> None:
    assert opened().probing().probe_worked() == Breaker()


def test_a_probe_that_fails_opens_it_for_longer() -> None:
    breaker = opened().probing().probe_failed()
    assert (breaker.state, breaker.trips) == (BreakerState.OPEN, 2)


@pytest.mark.parametrize("breaker", [opened(), opened().probing()])
def test_late_news_of_a_start_from_before_changes_nothing(breaker: Breaker) -> None:
    assert breaker.start_failed() is breaker
    assert breaker.start_worked() is breaker


def test_steps_that_nobody_designed_raise() -> None:
    with pytest.raises(IllegalTransition):
        Breaker().probing()
    with pytest.raises(IllegalTransition):
        opened().probe_worked()
    with pytest.raises(IllegalTransition):
        opened().probing().probing()


def test_every_state_can_be_left() -> None:
    assert set(BREAKER_TRANSITIONS) == set(BreakerState)
    assert all(BREAKER_TRANSITIONS.values())


@pytest.mark.parametrize(("trips", "wait_s"), [(1, 1), (2, 2), (3, 4), (7, 60), (500, 60)])
def test_the_cool_down_doubles_up_to_a_bound_and_varies(trips: int, wait_s: float) -> None:
    waits = {cool_down_s(trips, first_s=1, longest_s=60) for _ in range(20)}
    assert all(0.75 * wait_s <= wait <= 1.25 * wait_s for wait in waits)
    assert len(waits) > 1
