"""A stage of workers on fakeredis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from fakeredis import FakeAsyncRedis, FakeServer
from redis.asyncio import Redis

from tests.fakes.worker_stage import Stage


@pytest.fixture
async def redis() -> AsyncIterator[Redis]:
    client = FakeAsyncRedis(server=FakeServer())
    yield client
    await client.aclose()
    await _end_blocked_commands()


async def _end_blocked_commands() -> None:
    """fakeredis keeps a task for each blocking command whose client has gone."""
    left = [t for t in asyncio.all_tasks() if "_async_blocking" in repr(t.get_coro())]
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


@pytest.fixture
async def stage(redis: Redis) -> AsyncIterator[Stage]:
    async with Stage(redis) as stage:
        yield stage
