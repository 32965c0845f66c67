"""Blocking calls of the container hosts, in a few threads of their own.

A Docker call in the loop would block every turn of the worker for up to 400 ms, and the loop's
default pool is shared with DNS lookups. Used by `worker.hosts.docker.host` and
`worker.hosts.bubblewrap.host`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
log = logging.getLogger(__name__)


class BlockingCalls:
    """A bounded thread pool. Calls have a deadline, and their results can be undone if nobody waits
    any longer."""

    def __init__(self, name: str, *, threads: int, undo_timeout_s: float = 20.0) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._undo_timeout_s = undo_timeout_s

    async def run(
        self,
        work: Callable[[], T],
        *,
        timeout_s: float,
        undo: Callable[[T], None] | None = None,
    ) -> T:
        """The result of `work`. Raises `TimeoutError` after the deadline.

        A thread cannot be interrupted: if the caller is cancelled or out of time, the work
        continues. With `undo`, its result is undone in a thread as soon as it exists, even if a
        second cancellation arrives or the loop ends. This call waits for that for a bounded time
        before it raises.
        """
        future = self._pool.submit(work)
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(asyncio.wrap_future(future))
        except (asyncio.CancelledError, TimeoutError):
            # The work itself may raise a TimeoutError too; then there is nothing to undo.
            if undo is not None and not future.cancel():
                await self._undo(future, undo)
            raise

    def later(self, work: Callable[[], None]) -> None:
        """Run the work without waiting for it. A failure is logged."""
        self._pool.submit(_logged, work)

    def close(self) -> None:
        """Accept no more calls. Running ones finish on their own."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _undo(self, future: Future[T], undo: Callable[[T], None]) -> None:
        taken_back = self._pool.submit(_take_back, future, undo)
        try:
            async with asyncio.timeout(self._undo_timeout_s):
                await asyncio.shield(asyncio.wrap_future(taken_back))
        except TimeoutError:
            log.warning("a cancelled start is still being undone")


def _take_back(future: Future[T], undo: Callable[[T], None]) -> None:
    if future.exception() is not None:
        return
    try:
        undo(future.result())
    except Exception:
        # A cancellation is being handled; a failure here must not replace it.
        log.exception("a cancelled start could not be undone")


def _logged(work: Callable[[], None]) -> None:
    try:
        work()
    except Exception:
        # Nobody waits for it, so nobody else would see the failure.
        log.exception("a task in the background failed")
