"""fakeredis, tidied up.

A command that blocks there (BLPOP) runs as a task of its own and outlives its client: here it ends
with the client.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fakeredis import FakeAsyncRedis, FakeServer
from redis.asyncio import Redis


@asynccontextmanager
async def fake_redis() -> AsyncIterator[Redis]:
    """A client of an empty fake server of its own."""
    client = FakeAsyncRedis(server=FakeServer())
    try:
        yield client
    finally:
        await client.aclose()
        await _end_blocked_commands()


async def _end_blocked_commands() -> None:
    blocked = [
        task
        for task in asyncio.all_tasks()
        if getattr(task.get_coro(), "__qualname__", "").endswith("._async_blocking")
    ]
    for task in blocked:
        task.cancel()
    await asyncio.gather(*blocked, return_exceptions=True)
