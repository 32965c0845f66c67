"""`agcluster doctor` where a cluster runs already."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from infra.cli.doctor import examine
from infra.cli.findings import Finding, Verdict
from infra.runtime.settings import load_settings
from infra.store.keys import Keys
from infra.store.placement.workers import WorkerRecord, WorkerRegistry
from infra.store.server.connection import connect
from infra.wire.ids import HostId, WorkerId
from infra.wire.states import WorkerState
from tests.fakes.redis_server import RealRedis, real_redis

pytestmark = [pytest.mark.redis, pytest.mark.timeout(120)]


@pytest.fixture
async def server() -> AsyncIterator[RealRedis]:
    async with real_redis() as server:
        yield server


async def finding(server: RealRedis, folder: Path, *states: WorkerState) -> Finding | None:
    redis = connect(server.url, timeout_s=5, name="test")
    for number, state in enumerate(states):
        worker, host = WorkerId(f"worker-{number}"), HostId(f"host-{number}")
        await WorkerRegistry(redis, Keys()).beat(
            WorkerRecord(worker, host, 1, "0.1.0", slots=8, used=0, state=state, started_ms=1)
        )
    await redis.aclose()
    settings = load_settings(
        {
            "AGCLUSTER_REDIS_URL": server.url,
            "AGCLUSTER_DATA_DIR": str(folder),
            "AGCLUSTER_DEMO": "true",
        }
    )
    examined = await examine(settings, None)
    return next((one for one in examined.findings if one.name == "workers"), None)


async def test_a_failing_worker_is_named(server: RealRedis, tmp_path: Path) -> None:
    found = await finding(server, tmp_path, WorkerState.READY, WorkerState.FAILING)
    assert found is not None
    assert found.verdict is Verdict.NOTE
    assert found.text.splitlines() == [
        "1 failing, 1 ready",
        "worker-1 on host-1: starts no containers",
    ]


async def test_workers_that_work_are_counted(server: RealRedis, tmp_path: Path) -> None:
    found = await finding(server, tmp_path, WorkerState.READY, WorkerState.READY)
    assert found is not None
    assert (found.verdict, found.text) == (Verdict.OK, "2 ready")


async def test_without_a_cluster_nothing_is_said_of_workers(
    server: RealRedis, tmp_path: Path
) -> None:
    assert await finding(server, tmp_path) is None
