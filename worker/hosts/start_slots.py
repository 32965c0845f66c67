"""Limits how many agents start on this host at the same time.

A start takes seconds of CPU. Starting as many at once as there are cores is fastest for everyone,
and starting a hundred at once serves nobody. The waiting room gives a turn to a host only if the
host has a free start slot (`infra.store.placement.start_slots`), so turns wait there, and tenants
are served in turn. Only a container that has to be restarted in the middle of a turn waits here.

A start lasts from before the container is requested until its agent sends its first message. That
may take minutes, because an agent tries more than once to start its CLI. So a start counts as long
as its worker keeps reporting it, not for a fixed time, which an overloaded host would exceed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from infra.runtime.clock import Clock
from infra.runtime.logs import fields
from infra.store.placement.start_slots import StartSlots
from infra.wire.errors import StoreUnavailable
from infra.wire.ids import ConversationKey, HostId
from worker.hosts.capacity import HostMemory
from worker.waiting import signalled, until_store_answers

log = logging.getLogger(__name__)

LOOK_AGAIN_S = 0.5
"""We are not told when a start of another worker of this host ends."""
SPARE_START_S = 5.0
"""Nobody owns a spare, and a start without an owner counts no longer than this."""
_ROUNDS_MISSED = 6
"""A start is dropped when its worker has missed this many rounds of `Starts.run`."""


def starts_at_once(configured: int) -> int:
    """How many agents this host starts at once: as many as it has cores, unless configured."""
    return configured or len(os.sched_getaffinity(0))


class Starts:
    """One worker's share of the starts of its host."""

    def __init__(
        self,
        slots: StartSlots,
        clock: Clock,
        memory: HostMemory,
        *,
        host: HostId,
        most: int,
        keep_every_s: float,
        on_over: Callable[[], None] = lambda: None,
    ) -> None:
        """`keep_every_s`: how often starts in progress are reported. `on_over`: called when another
        one may begin."""
        self.most = most
        self._slots = slots
        self._clock = clock
        self._memory = memory
        self._host = host
        self._keep_every_s = keep_every_s
        self._life_s = keep_every_s * _ROUNDS_MISSED
        self._on_over = on_over
        self._under_way: set[ConversationKey] = set()
        self._waiting = 0
        self._turnstile = asyncio.Lock()
        self._telling = asyncio.Lock()
        """A report in transit must not keep a start that has ended."""
        self._over = asyncio.Event()

    @property
    def is_full(self) -> bool:
        """Whether this worker alone uses or waits for all start slots of its host."""
        return len(self._under_way) + self._waiting >= self.most

    @property
    def is_busy(self) -> bool:
        """Whether conversations of this worker start or wait to start."""
        return bool(self._under_way or self._waiting)

    async def run(self) -> None:
        """Keep reporting the starts in progress, until cancelled."""
        while True:
            await self._clock.sleep(self._keep_every_s)
            async with self._telling:
                await self._keep(sorted(self._under_way))

    async def begin(self, c: ConversationKey) -> None:
        """Wait until the conversation's agent may start. Waiting ones proceed in order."""
        self._waiting += 1
        try:
            if not await self._may_begin(c):
                log.info("waits for a start", extra=fields(conversation=c))
                async with self._turnstile:
                    while not await self._may_begin(c):
                        self._over.clear()
                        await signalled(self._over, self._clock, timeout_s=LOOK_AGAIN_S)
        finally:
            self._waiting -= 1
        self._under_way.add(c)
        self._memory.expect(c)

    async def begin_spare(self, spare: ConversationKey) -> bool:
        """Whether a spare may start now. It then counts for `SPARE_START_S`; ask again to go on.

        The last free start slot is left to conversations.
        """
        most = max(1, self.most - 1)
        try:
            return await self._slots.begin(spare, self._host, most=most, life_s=SPARE_START_S)
        except StoreUnavailable:
            return False

    async def end_spare(self, spare: ConversationKey) -> None:
        """The spare has started, or will not."""
        with contextlib.suppress(StoreUnavailable):
            await self._slots.end(spare, self._host)
        self._on_over()

    async def skip(self, c: ConversationKey) -> None:
        """The conversation has got a spare, and needs no start."""
        await until_store_answers(lambda: self._slots.end(c, self._host), self._clock)
        self._on_over()

    def ending(self, c: ConversationKey) -> Coroutine[Any, Any, None] | None:
        """The agent has sent its first message, or never will. Run what is returned before its next
        start; None if it was not starting."""
        self._memory.settle(c)
        return self._end(c) if c in self._under_way else None

    async def _end(self, c: ConversationKey) -> None:
        try:
            async with self._telling:
                await until_store_answers(lambda: self._slots.end(c, self._host), self._clock)
        finally:
            self.forget(c)

    def forget(self, c: ConversationKey) -> None:
        """Like `ending`, for a conversation that we no longer own; its start has already stopped to
        count."""
        self._memory.settle(c)
        if c in self._under_way:
            self._under_way.discard(c)
            self._over.set()
            self._on_over()

    async def _keep(self, under_way: Sequence[ConversationKey]) -> None:
        if not under_way:
            return
        try:
            await self._slots.keep(under_way, self._host, life_s=self._life_s)
        except StoreUnavailable as error:
            log.info("starts not kept: %s", error, extra=fields(starts=len(under_way)))

    async def _may_begin(self, c: ConversationKey) -> bool:
        return await until_store_answers(
            lambda: self._slots.begin(c, self._host, most=self.most, life_s=self._life_s),
            self._clock,
        )
