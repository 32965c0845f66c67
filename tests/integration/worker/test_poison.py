"""A turn that kills the process of each worker that starts it, on a real redis-server."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis

from infra.store.turns.turns import ATTEMPTS_MAX
from infra.wire.errors import ErrorCode
from infra.wire.states import TurnState
from tests.fakes.redis_server import RealRedis
from tests.fakes.worker_stage import Stage, conversation

pytestmark = [pytest.mark.redis, pytest.mark.timeout(120)]

C = conversation("poisoned")


@asynccontextmanager
async def deadly_worker(
    server: RealRedis, stage: Stage
) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.fakes.deadly_worker",
        server.url,
        stage.keys.prefix,
        str(stage.folder),
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_a_turn_that_kills_its_workers_is_started_twice_and_then_fails(
    server: RealRedis, redis: Redis
) -> None:
    async with Stage(redis) as stage:
        turn = await stage.ask(C, "echo whoever reads this")
        for _ in range(ATTEMPTS_MAX):
            async with deadly_worker(server, stage) as worker, asyncio.timeout(40):
                assert await worker.wait() == -signal.SIGKILL
            await stage.lapse_lease(C)
        async with deadly_worker(server, stage) as survivor:
            end = await stage.ended(turn)
            assert survivor.returncode is None

        assert end.state is TurnState.FAILED
        assert end.error is not None
        assert end.error.code is ErrorCode.CONTAINER_FAILED
        assert (stage.folder / "starts").read_text().split() == [C] * ATTEMPTS_MAX
        assert [n for n, _ in await stage.logged(turn)] == [1], "nothing but its end"
