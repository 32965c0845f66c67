"""Transcript entries on their way from an agent into the store, beside the turn's frames.

The agent keeps what is not answered and says it again over a new link, so nothing here needs to
survive: while Redis is away this goes on trying as long as the lease holds.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from infra.runtime.clock import Clock
from infra.runtime.logs import fields
from infra.store.leases import Lease
from infra.store.transcripts import TranscriptStore
from infra.wire.errors import MalformedMessage
from infra.wire.link import TranscriptAppend
from worker.waiting import until_store_answers

log = logging.getLogger(__name__)

PENDING_MAX = 4
"""An agent sends one message and waits; each may be as long as a line of the link. One that floods
is not answered, and hurts itself."""


class TranscriptKeeper:
    """Stores a conversation's transcript entries one message after the other, under its lease."""

    def __init__(
        self,
        store: TranscriptStore,
        lease: Lease,
        clock: Clock,
        *,
        on_stored: Callable[[int], None],
    ) -> None:
        """`on_stored` is called with the message's `seq`."""
        self._store = store
        self._lease = lease
        self._clock = clock
        self._on_stored = on_stored
        self._pending: deque[TranscriptAppend] = deque()
        self._arrived = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()

    def take(self, append: TranscriptAppend) -> None:
        """Take a message; returns at once."""
        if len(self._pending) >= PENDING_MAX:
            log.warning(
                "transcript entries left with the agent",
                extra=fields(conversation=self._lease.conversation, seq=append.seq),
            )
            return
        self._pending.append(append)
        self._empty.clear()
        self._arrived.set()

    async def run(self) -> None:
        """Store what comes until cancelled. Raises `LeaseLost`."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._pending:
                append = self._pending[0]
                await self._keep(append)
                self._pending.popleft()
                self._on_stored(append.seq)
            self._empty.set()

    async def settled(self, *, timeout_s: float) -> bool:
        """Until all that was taken is stored; False when that takes longer."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    async def _keep(self, append: TranscriptAppend) -> None:
        try:
            is_kept = await until_store_answers(
                lambda: self._store.append(self._lease, append.sdk_session, append.part),
                self._clock,
            )
        except MalformedMessage as error:
            # Answered all the same: said again, it would not be better.
            log.warning("transcript entries dropped: %s", error)
            return
        if not is_kept:
            log.info("transcript too large", extra=fields(conversation=self._lease.conversation))
