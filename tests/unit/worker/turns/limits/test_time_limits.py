"""A turn's deadline and grace are timers; the first of them that counts fires, and only once."""

from __future__ import annotations

import pytest

from tests.fakes.manual_clock import ManualClock
from worker.turns.limits.time_limits import TimeLimits


class Limited:
    """A turn that keeps what its limits tell it."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.told: list[str] = []
        self.limits = TimeLimits(
            self.clock,
            grace_s=5.0,
            on_deadline=lambda: self.stop("deadline"),
            on_grace_over=lambda: self.told.append("grace over"),
            on_overrun_over=lambda: self.stop("overrun"),
        )

    def stop(self, why: str) -> None:
        """As a run does: it is interrupted, and its grace begins."""
        self.told.append(why)
        self.limits.interrupted()


async def test_the_deadline_comes_and_then_the_end_of_the_grace() -> None:
    turn = Limited()
    turn.limits.start(left_s=60)
    await turn.clock.advance(59)
    assert turn.told == []
    await turn.clock.advance(1)
    assert turn.told == ["deadline"]
    await turn.clock.advance(5)
    assert turn.told == ["deadline", "grace over"]
    await turn.clock.advance(1000)
    assert turn.told == ["deadline", "grace over"]


@pytest.mark.parametrize("left_s", [0.0, -3.0])
async def test_one_without_time_left_is_told_at_once(left_s: float) -> None:
    turn = Limited()
    turn.limits.start(left_s=left_s)
    await turn.clock.advance(0)
    assert turn.told == ["deadline"]
    turn.limits.stop()
    await turn.clock.advance(0)


async def test_an_interrupt_replaces_the_deadline_and_a_second_one_changes_nothing() -> None:
    turn = Limited()
    turn.limits.start(left_s=6)
    turn.limits.interrupted()
    await turn.clock.advance(4)
    turn.limits.interrupted()
    await turn.clock.advance(1)
    assert turn.told == ["grace over"]
    await turn.clock.advance(100)
    assert turn.told == ["grace over"]


async def test_one_that_is_interrupted_before_it_starts_has_only_its_grace() -> None:
    turn = Limited()
    turn.limits.interrupted()
    turn.limits.start(left_s=1)
    await turn.clock.advance(5)
    assert turn.told == ["grace over"]


async def test_one_without_budget_is_interrupted_after_a_grace_of_its_own() -> None:
    turn = Limited()
    turn.limits.start(left_s=600)
    for _ in range(3):
        turn.limits.overrun()
        await turn.clock.advance(2)
    assert turn.told == ["overrun"]
    await turn.clock.advance(4)
    assert turn.told == ["overrun", "grace over"]


async def test_after_its_end_nothing_fires() -> None:
    turn = Limited()
    turn.limits.start(left_s=10)
    turn.limits.overrun()
    turn.limits.stop()
    turn.limits.interrupted()
    turn.limits.overrun()
    turn.limits.start(left_s=1)
    await turn.clock.advance(1000)
    assert turn.told == []
