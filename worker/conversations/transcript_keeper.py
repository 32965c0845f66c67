"""Stores an agent's transcript entries, beside the turn's frames.

The agent keeps unconfirmed entries and sends them again over a new link, so nothing here has to
survive. While Redis is unavailable, this keeps trying as long as the lease holds.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

from infra.runtime.clock import Clock
from infra.runtime.logs import RatedLog, fields
from infra.store.conversations.leases import Lease
from infra.store.conversations.transcripts import RawPart
from infra.wire.errors import MalformedMessage
from infra.wire.link import TRANSCRIPT_LINE_MAX_BYTES
from worker.hosts.host import ContainerId
from worker.lines import CutLine, HeldLines
from worker.turns.link.transcript_lines import AppendHead, read_head, read_part
from worker.waiting import until_store_answers

log = logging.getLogger(__name__)

PENDING_MAX = 4
PENDING_MAX_BYTES = TRANSCRIPT_LINE_MAX_BYTES
"""Waiting messages of one agent. An honest one sends one and waits; one that floods gets no
answer."""
LARGE_BYTES = 256 * 1024
"""Longer messages are parsed in a thread, and few are stored at the same time."""
OWN_BYTES = 2 * 1024 * 1024
"""What each agent may have waiting whatever others have: an honest message is closed at 1 MB.
Only a single entry that is longer needs room that all share."""


class EntryStore(Protocol):
    """Where entries are stored. See `TranscriptStore`."""

    async def append(self, lease: Lease, sdk_session: str, part: RawPart) -> bool: ...

    async def give_up(self, lease: Lease, sdk_session: str) -> None: ...


class _Pending(NamedTuple):
    head: AppendHead
    line: bytes
    container: ContainerId | None
    shared_bytes: int
    """Its part of the room that all agents share."""


class TranscriptKeeper:
    """Stores a conversation's transcript entries, one message after the other, under its lease."""

    def __init__(
        self,
        store: EntryStore,
        lease: Lease,
        clock: Clock,
        held: HeldLines,
        *,
        is_complete: bool,
        on_stored: Callable[[int, ContainerId | None], None],
    ) -> None:
        """`is_complete`: whether what is stored already lacks nothing. `on_stored` is called with
        the message's `seq` and the agent process that sent it."""
        self._store = store
        self._lease = lease
        self._clock = clock
        self._held = held
        self._on_stored = on_stored
        self._log = RatedLog(
            log, extra=fields(conversation=lease.conversation), monotonic=clock.monotonic
        )
        self._pending: deque[_Pending] = deque()
        self._pending_bytes = 0
        self._arrived = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self.is_complete = is_complete
        """Whether the stored transcript has all entries that were taken, so that another agent can
        resume its session."""

    def take(self, line: bytes, container: ContainerId | None = None) -> None:
        """Accept a message's line. Returns at once. Raises `MalformedMessage`."""
        head = read_head(line)
        # Said again over a new link. The number alone says little: each agent process counts anew.
        if any((line, container) == (one.line, one.container) for one in self._pending):
            return
        is_full = len(self._pending) >= PENDING_MAX
        if is_full or self._pending_bytes + len(line) > PENDING_MAX_BYTES:
            self._log.warning("transcript entries left with the agent", seq=head.seq)
            return
        shared_bytes = 0 if not self._pending and len(line) <= OWN_BYTES else len(line)
        if shared_bytes and not self._held.wait(shared_bytes):
            # The agent says it again over its next link.
            self._log.warning("transcript entries left with the agent: no room", seq=head.seq)
            return
        self._pending.append(_Pending(head, line, container, shared_bytes))
        self._pending_bytes += len(line)
        self._empty.clear()
        self._arrived.set()

    async def run(self) -> None:
        """Store messages until cancelled. Raises `LeaseLost`."""
        try:
            await self._store_for_ever()
        finally:
            while self._pending:
                self._forget_first()

    async def _store_for_ever(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._pending:
                first = self._pending[0]
                await self._keep(first.head, first.line)
                self._forget_first()
                self._on_stored(first.head.seq, first.container)
            self._empty.set()

    async def settled(self, *, timeout_s: float) -> bool:
        """Wait until all accepted messages are stored; False if that takes longer."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    def _forget_first(self) -> None:
        first = self._pending.popleft()
        self._pending_bytes -= len(first.line)
        if first.shared_bytes:
            self._held.done(first.shared_bytes)

    async def _keep(self, head: AppendHead, line: bytes) -> None:
        try:
            if isinstance(line, CutLine):
                is_kept = await self._give_up(head)
            elif len(line) > LARGE_BYTES:
                async with self._held.large:
                    is_kept = await self._append(head, await asyncio.to_thread(read_part, line))
            else:
                is_kept = await self._append(head, read_part(line))
        except MalformedMessage as error:
            # Answered all the same: said again, it would not be better.
            self._log.warning("transcript entries dropped: %s", error)
            self.is_complete = False
            return
        self.is_complete = is_kept
        if not is_kept:
            self._log.info("transcript too large")

    async def _append(self, head: AppendHead, part: RawPart) -> bool:
        return await until_store_answers(
            lambda: self._store.append(self._lease, head.sdk_session, part), self._clock
        )

    async def _give_up(self, head: AppendHead) -> bool:
        await until_store_answers(
            lambda: self._store.give_up(self._lease, head.sdk_session), self._clock
        )
        return False
