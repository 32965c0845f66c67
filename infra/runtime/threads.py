"""Work in threads, awaited to its end. Used by the API and the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from typing import TypeVar

T = TypeVar("T")


async def in_thread(work: Callable[[], T]) -> T:
    """Run `work` in a thread of the loop's pool and return its result.

    A thread cannot be interrupted. If the caller is cancelled, this raises only after the work has
    ended, so that anything the caller holds for it (bytes, a place in a queue) is held as long as
    the thread uses it. Only for work of bounded duration.
    """
    running = asyncio.get_running_loop().run_in_executor(None, copy_context().run, work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            # A second cancellation changes nothing: the first one is raised below.
            with suppress(asyncio.CancelledError):
                await asyncio.wait([running])
        if not running.cancelled():
            running.exception()  # Nobody waits for the result, so a failure is dropped.
        raise
