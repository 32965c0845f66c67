"""Counts how often something happened in the last minute, over all replicas.

The `limits` library does the counting with its sliding window counter: two small keys per counted
id, no history, and Redis' own time. It uses the pool of the process.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from limits import RateLimitItemPerMinute
from limits.aio.storage import RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from redis.asyncio import Redis

from infra.store.keys import Keys
from infra.store.server.connection import translate

TIMEOUT_S = 0.5
"""Seconds that a request waits for its count. If it cannot be counted, it is accepted."""


@dataclass(frozen=True)
class Rate:
    """The current state of a limit. `reset_s`: seconds until one more is allowed, or everything has
    expired."""

    limit: int
    remaining: int
    reset_s: float
    is_exceeded: bool


class Rates:
    """Counts by kind (a name of ours) and id (without any secret in it).

    Counts are approximate within a window of one minute and shared by all replicas. Methods raise
    `StoreUnavailable`; callers then let the request through.
    """

    def __init__(self, redis: Redis, keys: Keys, *, timeout_s: float = TIMEOUT_S) -> None:
        # The library types its options as plain values, but its documentation allows a pool.
        storage = RedisStorage(
            "async+redis://",
            implementation="redispy",
            key_prefix=keys.rates(),
            connection_pool=redis.connection_pool,  # type: ignore[arg-type]
        )
        self._limiter = SlidingWindowCounterRateLimiter(storage)
        self._timeout_s = timeout_s

    async def hit(self, kind: str, who: str, *, per_min: int) -> Rate:
        """Count one more, unless that would exceed the limit. Raises `StoreUnavailable`."""
        item = RateLimitItemPerMinute(per_min, namespace=kind)
        with translate():
            async with asyncio.timeout(self._timeout_s):
                is_taken = await self._limiter.hit(item, who)
                return await self._rate(item, who, is_exceeded=not is_taken)

    async def look(self, kind: str, who: str, *, per_min: int) -> Rate:
        """The same without counting. Raises `StoreUnavailable`."""
        item = RateLimitItemPerMinute(per_min, namespace=kind)
        with translate():
            async with asyncio.timeout(self._timeout_s):
                is_free = await self._limiter.test(item, who)
                return await self._rate(item, who, is_exceeded=not is_free)

    async def _rate(self, item: RateLimitItemPerMinute, who: str, *, is_exceeded: bool) -> Rate:
        stats = await self._limiter.get_window_stats(item, who)
        reset_s = max(stats.reset_time - time.time(), 0.0)
        return Rate(item.amount, max(stats.remaining, 0), reset_s, is_exceeded)
