"""Ways of waiting: for a signal with a limit, for the store to come back, for the next round."""

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
    """Wait for the event, at most `timeout_s` by the clock; whether it is set."""
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
    """Repeat an idempotent call while Redis is away; every other error passes.

    It may never end: the caller is ended by its lost lease, or cancelled.
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
    """Run `step` at random distances until cancelled. A failed round is logged and survived.

    `stretch`: by what the distances are multiplied now.
    """
    while True:
        try:
            await step()
        except AgClusterError as error:
            log.warning("%s: %s", name, error)
        except Exception:
            log.exception("%s failed", name)
        await clock.sleep(random.uniform(at_least_s, at_most_s) * stretch())
