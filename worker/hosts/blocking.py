"""Blocking calls of the container hosts, in a few threads of their own.

A Docker call made in the loop blocks every turn of the worker for up to 400 ms, and the loop's
default pool is shared with name look-ups. Called by `worker.hosts.docker.host` and
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
    """A bounded pool whose calls have a deadline, and can be undone when nobody waits any more."""

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
        """The result of `work`, or `TimeoutError`.

        A thread cannot be interrupted: cancelled or out of time, the work goes on. With `undo` its
        result is taken back as soon as it is there, in a thread, so also when a second cancel
        arrives or the loop ends; this call waits for that a bounded time before it raises.
        """
        future = self._pool.submit(work)
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(asyncio.wrap_future(future))
        except (asyncio.CancelledError, TimeoutError):
            # A failure of the work itself may be a TimeoutError too: there is nothing to undo then.
            if undo is not None and not future.cancel():
                await self._undo(future, undo)
            raise

    def later(self, work: Callable[[], None]) -> None:
        """Have it done; nobody waits. A failure is logged."""
        self._pool.submit(_logged, work)

    def close(self) -> None:
        """Take no more calls. Running ones finish by themselves."""
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
        # Somebody's cancel is being served: a failure here must not take its place.
        log.exception("a cancelled start could not be undone")


def _logged(work: Callable[[], None]) -> None:
    try:
        work()
    except Exception:
        # Nobody waits for it, so nobody else would see the failure.
        log.exception("a task in the background failed")
