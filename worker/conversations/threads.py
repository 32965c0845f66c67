"""Calls in threads whose descriptors are closed afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


async def to_its_end(call: Callable[[], T]) -> T:
    """The result of a call in a thread. If the caller is cancelled, it waits for the thread all the
    same: the descriptors that this uses are closed afterwards."""
    working = asyncio.get_running_loop().run_in_executor(None, call)
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        while not working.done():
            # A second cancellation changes nothing: the first one is raised below.
            with suppress(asyncio.CancelledError):
                await asyncio.wait({working})
        raise
