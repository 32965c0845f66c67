"""Ways to wait: for a signal with a timeout, for the store to be available, for the next round."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from infra.runtime.clock import Clock
from infra.wire.errors import AgClusterError, StoreUnavailable

log = logging.getLogger(__name__)

_Answer = TypeVar("_Answer")

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 2.0


async def signalled(event: asyncio.Event, clock: Clock, *, timeout_s: float) -> bool:
    """Wait for the event, at most `timeout_s` by the clock. Returns whether it is set."""
    if event.is_set() or timeout_s <= 0:
        return event.is_set()
    async with asyncio.TaskGroup() as group:
        timer = group.create_task(clock.sleep(timeout_s))
        signal = group.create_task(event.wait())
        await asyncio.wait({timer, signal}, return_when=asyncio.FIRST_COMPLETED)
        timer.cancel()
        signal.cancel()
    return event.is_set()


async def until_store_answers(call: Callable[[], Awaitable[_Answer]], clock: Clock) -> _Answer:
    """Repeat an idempotent call while Redis is unavailable. Other errors are raised.

    May never end: its caller ends it when the lease is lost, or by cancelling it.
    """
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            return await call()
        except StoreUnavailable as error:
            log.warning("store unavailable, trying again: %s", error)
        await clock.sleep(pause_s * random.uniform(0.8, 1.2))
        pause_s = min(pause_s * 2, LONGEST_PAUSE_S)


async def periodically(
    step: Callable[[], Awaitable[None]],
    clock: Clock,
    *,
    name: str,
    at_least_s: float,
    at_most_s: float,
    stretch: Callable[[], float] = lambda: 1.0,
) -> None:
    """Run `step` at random intervals until cancelled. A failed round is logged, and the loop
    continues.

    `stretch` returns the factor for the next interval.
    """
    while True:
        try:
            await step()
        except AgClusterError as error:
            log.warning("%s: %s", name, error)
        except Exception:
            log.exception("%s failed", name)
        await clock.sleep(random.uniform(at_least_s, at_most_s) * stretch())
