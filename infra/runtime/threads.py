"""Work beside the loop, waited for to its end. Called by the API and the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from typing import TypeVar

T = TypeVar("T")


async def in_thread(work: Callable[[], T]) -> T:
    """The result of `work`, which is done in a thread of the loop's pool.

    A thread cannot be interrupted: cancelled, this raises only when the work has ended, so that
    what the caller holds for it (bytes, a place in a row) is held as long as it is used. For work
    whose time has a bound; nothing shorter would keep that word.
    """
    running = asyncio.get_running_loop().run_in_executor(None, copy_context().run, work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            # Another cancel changes nothing: the first one is raised below.
            with suppress(asyncio.CancelledError):
                await asyncio.wait([running])
        if not running.cancelled():
            running.exception()  # Nobody is left to hear of a failure.
        raise
