"""The proxy acts out what it says: a fault suite over a proxy that does nothing proves nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from tests.fakes.redis_proxy import RedisProxy, Way, redis_proxy
from tests.fakes.redis_server import real_redis

pytestmark = [pytest.mark.redis, pytest.mark.timeout(60)]


@asynccontextmanager
async def plain(proxy: RedisProxy) -> AsyncIterator[Redis]:
    """A client that repeats nothing."""
    client = Redis.from_url(proxy.url, socket_timeout=1, socket_connect_timeout=0.5)
    async with client:
        yield client


@pytest.fixture
async def proxy() -> AsyncIterator[RedisProxy]:
    async with real_redis() as server, redis_proxy(server.url) as proxy:
        yield proxy


async def test_it_passes_everything(proxy: RedisProxy) -> None:
    async with plain(proxy) as client:
        large = b"x" * 3_000_000
        await client.set("key", large)
        assert await client.get("key") == large
        assert (proxy.connections, proxy.connected) == (1, 1)


async def test_cut_connections_are_reset_and_new_ones_work(proxy: RedisProxy) -> None:
    async with plain(proxy) as client:
        await client.ping()
        assert proxy.cut() == 1
        with pytest.raises(RedisConnectionError):
            await client.ping()
        assert await client.ping()


async def test_a_reply_is_cut_after_its_request_was_done(proxy: RedisProxy) -> None:
    async with plain(proxy) as client:
        cut = proxy.cut_reply(to=b"INCR", after=0)
        await client.ping()
        with pytest.raises(RedisConnectionError):
            await client.incr("count")
        assert cut.is_set()
        assert await client.get("count") == b"1"


@pytest.mark.parametrize("way", [*Way, None])
async def test_a_black_hole_breaks_nothing_and_passes_nothing(
    proxy: RedisProxy, way: Way | None
) -> None:
    async with plain(proxy) as client, plain(proxy) as other:
        await client.ping()
        proxy.black_hole(*[way] if way else [])
        with pytest.raises(RedisTimeoutError):
            await client.incr("count")
        proxy.heal()
        if way is Way.TO_CLIENT:
            assert await other.get("count") == b"1"
        assert await other.ping()


async def test_delay_makes_everything_late(proxy: RedisProxy) -> None:
    loop = asyncio.get_running_loop()
    async with plain(proxy) as client:
        await client.ping()
        proxy.delay(0.1)
        began = loop.time()
        await client.ping()
        assert loop.time() - began > 0.19


async def test_new_connections_are_refused_and_old_ones_stay(proxy: RedisProxy) -> None:
    async with plain(proxy) as old, plain(proxy) as new:
        await old.ping()
        proxy.refuse()
        with pytest.raises(RedisConnectionError, match="111"):
            await new.ping()
        await old.ping()
        proxy.heal()
        await new.ping()


async def test_new_connections_may_hang(proxy: RedisProxy) -> None:
    async with plain(proxy) as old, plain(proxy) as new:
        await old.ping()
        proxy.hang_new()
        with pytest.raises(RedisTimeoutError):
            await new.ping()
        await old.ping()
        proxy.heal()
        await new.ping()
