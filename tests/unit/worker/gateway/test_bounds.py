"""How much may be under way at once, and how many a minute."""

from __future__ import annotations

import pytest

from worker.gateway.bounds import Pace, Places, PlacesTaken, TooFast


def rate(per_minute: int) -> Pace:
    return Pace(per_minute, what="calls", wait_s=0.01)


def test_places_are_bounded_and_given_back() -> None:
    places = Places(1)
    with places.take(), pytest.raises(PlacesTaken), places.take():
        raise AssertionError
    with places.take():
        return


async def test_who_is_faster_than_the_rate_is_refused_with_the_figure() -> None:
    calls = rate(2)
    await calls.wait()
    await calls.wait()
    with pytest.raises(TooFast, match="more than 2 calls a minute"):
        await calls.wait()


async def test_without_a_rate_any_number_may_begin() -> None:
    calls = rate(0)
    calls.charge(1000)
    for _ in range(1000):
        await calls.wait()


async def test_what_one_cost_more_is_waited_for_by_the_next() -> None:
    calls = rate(3)
    await calls.wait()
    calls.charge(2)
    with pytest.raises(TooFast):
        await calls.wait()


async def test_a_debt_beyond_the_rate_is_paid_over_several() -> None:
    """It can never be had at once, so all the minute's share is taken until it is paid."""
    calls = rate(2)
    calls.charge(2)
    await calls.wait()
    with pytest.raises(TooFast):
        await calls.wait()
