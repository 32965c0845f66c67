"""Some minutes of mixed turns and random faults: nothing is lost, doubled, hung or leaked.

`make soak` takes its time; here it is short, and only where everything is run.
"""

from __future__ import annotations

import asyncio
import os
import random

import pytest

from tests.chaos.cluster import Agents
from tests.chaos.soak import Report, soak
from tests.parts import need

pytestmark = [pytest.mark.redis, pytest.mark.soak, pytest.mark.timeout(600)]

SECONDS = 85.0
GROWTH_MAX_MB = 60.0


@pytest.mark.skipif(os.environ.get("CI") != "true", reason="three minutes: CI runs it (CI=true)")
def test_nothing_is_lost_doubled_hung_or_leaked(request: pytest.FixtureRequest) -> None:
    need("redis")
    for part in ("bwrap", "sdk"):
        need(part)
    seed = request.config.getoption("--chaos-seed")
    if seed is None:
        seed = random.SystemRandom().randrange(10**6)
    for report in asyncio.run(_both(seed)):
        print(report.render())
        assert report.is_clean, report.render()
        assert report.turns.total() > 3, report.render()
        assert max(report.growth_mb.values(), default=0.0) < GROWTH_MAX_MB, report.render()


async def _both(seed: int) -> list[Report]:
    """Real agents, and beside them many more turns and faults with light ones."""
    async with asyncio.TaskGroup() as group:
        runs = [
            group.create_task(soak(seconds=SECONDS, seed=seed, agents=agents, clients=clients))
            for agents, clients in ((Agents.LIGHT, 8), (Agents.BUBBLEWRAP, 3))
        ]
    return [run.result() for run in runs]
