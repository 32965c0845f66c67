"""A long-lived loop of the store as part of a test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager


@asynccontextmanager
async def running(*loops: Coroutine[object, object, None]) -> AsyncIterator[None]:
    """The loops run until the block ends. One that ends by itself ends the test."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_for_ever(loop)) for loop in loops]
        yield
        for task in tasks:
            task.cancel()


async def _for_ever(loop: Coroutine[object, object, None]) -> None:
    await loop
    raise AssertionError("a loop that never ends has ended")


async def until(
    question: Callable[[], Awaitable[bool]] | Callable[[], bool], *, timeout_s: float = 20
) -> None:
    """Wait for something only Redis or another process decides."""
    async with asyncio.timeout(timeout_s):
        while True:
            answer = question()
            if answer if isinstance(answer, bool) else await answer:
                return
            await asyncio.sleep(0.01)
