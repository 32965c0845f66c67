"""API, worker and agents on a Redis that fails over under their streams."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.fakes.redis_sentinel import SentinelCluster, sentinels
from tests.integration.store.cluster import (
    RECOVERED_S,
    Told,
    cluster_on,
    listen,
    until_a_turn_works,
)

pytestmark = [pytest.mark.redis, pytest.mark.timeout(240)]

STREAMS = 4


@pytest.mark.parametrize("trouble", ["killed while the replica lagged", "frozen"])
async def test_streams_outlive_a_failover_or_fail_visibly(trouble: str) -> None:
    async with sentinels() as redis, cluster_on(redis.url) as (api, stage):
        told = [Told() for _ in range(STREAMS)]
        async with asyncio.timeout(120), asyncio.TaskGroup() as group:
            for i, one in enumerate(told):
                group.create_task(listen(api, f"c{i}", one))
            for one in told:
                await one.is_under_way.wait()
            began = time.monotonic()
            old = await _act_out(redis, trouble)
            await redis.failed_over()
            if trouble == "frozen":
                redis.thaw(old)
            await until_a_turn_works(api)
            recovered_s = time.monotonic() - began
        for one in told:
            one.judge()
        complete = sum(one.is_done for one in told)
        print(f"{trouble}: new turns after {recovered_s:.1f} s, {complete} of {STREAMS} complete")
        assert recovered_s < RECOVERED_S
        assert all(len(agents) == 1 for agents in stage.agents.values()), "tools ran once"


async def _act_out(redis: SentinelCluster, trouble: str) -> int:
    if trouble == "frozen":
        return redis.freeze_primary()
    await redis.cut_replica_off()
    await asyncio.sleep(0.6)  # What is written meanwhile will be lost.
    return await redis.kill_primary()
