"""How many spares a worker wants."""

from __future__ import annotations

from dataclasses import replace

import pytest

from worker.hosts.pool.sizing import PoolFacts, wanted_spares

QUIET = PoolFacts(least=1, most=4, recent_starts=0, free_slots=10, spares=1, spare_memory_mb=10_000)


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        pytest.param({}, 1, id="the floor, when nothing happens"),
        pytest.param({"least": 0}, 0, id="no floor"),
        pytest.param({"most": 0}, 0, id="off"),
        pytest.param({"recent_starts": 1}, 1, id="one start a minute"),
        pytest.param({"least": 0, "recent_starts": 1}, 1, id="somebody may come again"),
        pytest.param({"recent_starts": 9}, 3, id="as many as start in a quarter of a minute"),
        pytest.param({"recent_starts": 1000}, 4, id="the ceiling"),
        pytest.param({"recent_starts": 1000, "free_slots": 2}, 2, id="no more than slots"),
        pytest.param({"free_slots": 0}, 0, id="full"),
        pytest.param({"free_slots": -1}, 0, id="over full"),
        pytest.param({"spare_memory_mb": None}, 1, id="unknown memory"),
        pytest.param({"spare_memory_mb": 199, "spares": 0}, 0, id="no memory for one"),
        pytest.param({"spare_memory_mb": 199}, 1, id="what is there fits"),
        pytest.param({"recent_starts": 99, "spare_memory_mb": 450}, 3, id="memory for two more"),
        pytest.param({"spare_memory_mb": -1}, 0, id="a start lacks memory"),
        pytest.param({"spares": 3, "recent_starts": 99, "spare_memory_mb": -250}, 1, id="two go"),
    ],
)
def test_the_pool_follows_demand_within_its_bounds(changed: dict[str, int], wanted: int) -> None:
    assert wanted_spares(replace(QUIET, **changed)) == wanted
