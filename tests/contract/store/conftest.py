"""Every test of this folder that asks for `scene` runs on fakeredis and on a real redis-server."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator

import pytest
from redis.asyncio import Redis

from infra.store.keys import Keys
from infra.store.server.connection import connect
from tests.contract.store.scene import Scene
from tests.fakes.fake_redis import fake_redis
from tests.fakes.redis_server import RealRedis


@pytest.fixture(scope="session")
def redis_process() -> Iterator[RealRedis]:
    """A server for all tests that do it no harm: each has its own key prefix."""
    server = RealRedis()
    try:
        server.launch()
        yield server
    finally:
        server.remove()


@pytest.fixture
async def fake() -> AsyncIterator[Redis]:
    async with fake_redis() as client:
        yield client


@pytest.fixture
async def real(redis_process: RealRedis) -> AsyncIterator[Redis]:
    client = connect(redis_process.url, timeout_s=10, name="test")
    yield client
    await client.aclose()


@pytest.fixture
def keys() -> Keys:
    return Keys(f"test-{secrets.token_hex(4)}")


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.redis)])
def scene(request: pytest.FixtureRequest, keys: Keys) -> Scene:
    return Scene(request.getfixturevalue(request.param), keys)


@pytest.fixture
def real_scene(real: Redis, keys: Keys) -> Scene:
    return Scene(real, keys)


@pytest.fixture
def fake_scene(fake: Redis, keys: Keys) -> Scene:
    return Scene(fake, keys)
