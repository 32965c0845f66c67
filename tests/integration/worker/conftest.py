"""Workers on a real redis-server, with scripted agents over real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from infra.store.server.connection import connect
from tests.fakes.redis_server import RealRedis, real_redis


@pytest.fixture
async def server() -> AsyncIterator[RealRedis]:
    async with real_redis(append_only=True) as server:
        yield server


@pytest.fixture
async def redis(server: RealRedis) -> AsyncIterator[Redis]:
    client = connect(server.url, timeout_s=2, name="test")
    yield client
    await client.aclose()
