"""Every fault of the table, in running clusters, while numbered answers are streamed.

All scenarios are run at once before the first test, which therefore takes minutes; each test then
looks at what came of its own. A failure tells the seed and what was done when.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping

import pytest

from tests.chaos.act import Scenario, Told
from tests.chaos.scenarios import TRACKS, run_tracks
from tests.parts import missing, need

pytestmark = [pytest.mark.redis, pytest.mark.timeout(600)]

SCENARIOS = [(track, one) for track in TRACKS for step in track.steps for one in step]


@pytest.fixture(scope="module")
def told(request: pytest.FixtureRequest) -> Mapping[str, Told]:
    """What came of every scenario that a selected test asks for."""
    seed = request.config.getoption("--chaos-seed")
    if seed is None:
        seed = random.SystemRandom().randrange(10**6)
    wanted = frozenset(
        item.callspec.id
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and item.module is request.module
        and hasattr(item, "callspec")
    )
    able = [track for track in TRACKS if not any(map(missing, track.parts))]
    told = asyncio.run(run_tracks(wanted, seed=seed, tracks=able))
    for one in told.values():
        print(f"{one.took_s:6.1f} s  {one.scenario}")  # `-s` shows it.
    return told


@pytest.mark.parametrize(
    ("parts", "scenario"),
    [pytest.param(track.parts, one, id=one.name) for track, one in SCENARIOS],
)
def test_promise_is_kept(
    parts: tuple[str, ...], scenario: Scenario, request: pytest.FixtureRequest
) -> None:
    for part in parts:
        need(part)
    told: Mapping[str, Told] = request.getfixturevalue("told")
    assert told[scenario.name].is_kept, told[scenario.name].story()
