"""A container host whose containers may once have been spares.

The engine knows such a container by the key of the spare. Here it is the conversation's, under the
fence of its claim, so nobody else has to know of spares: not the actors, not the reconciler. A
spare that is not claimed is not listed among the conversations' containers at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from infra.runtime.logs import fields
from infra.wire.errors import ContainerFailed, LeaseLost
from infra.wire.ids import ConversationKey, Fence, HostId, WorkerId
from worker.hosts.folders.folders import Folders
from worker.hosts.folders.locks import LockBusy
from worker.hosts.folders.moves import NotMovedBack, TooManyEntries
from worker.hosts.host import Container, ContainerExit, ContainerHost, ContainerId, ContainerSpec
from worker.hosts.pool.records import LOCK_S, NotToBeHad, SpareRecord, SpareRecords

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FoundSpare:
    """An unclaimed spare of this host, and its container if it has one."""

    record: SpareRecord
    container: Container | None


class PooledHost:
    """`ContainerHost` around another one. Also keeps the records of spares."""

    def __init__(
        self,
        inner: ContainerHost,
        records: SpareRecords,
        folders: Folders,
        *,
        on_spare_ended: Callable[[ContainerId], None] = lambda id: None,
    ) -> None:
        """`on_spare_ended` is called for spares whose container ended before they were claimed."""
        self.name = inner.name
        self.host: HostId = inner.host
        self._inner = inner
        self._records = records
        self._folders = folders
        self._on_spare_ended = on_spare_ended
        self._claimed: dict[ContainerId, ConversationKey] = {}
        """The spares that containers of conversations were, as far as this object has seen."""

    # ContainerHost

    async def check(self) -> None:
        """See `ContainerHost`."""
        await self._inner.check()

    async def start(self, spec: ContainerSpec) -> Container:
        """See `ContainerHost`."""
        await self.end_claims_of(spec.conversation, spec.fence)
        return await self._inner.start(spec)

    async def end_claims_of(self, c: ConversationKey, fence: Fence) -> None:
        """Remove what was a spare and became the conversation's earlier. Called before its folders
        are used or dropped, because a claim that broke off replaces them.

        From now on no older owner can claim for it. Raises `LeaseLost`, and `ContainerFailed` if
        its files cannot be brought together.
        """
        if not self._records.are_there:
            return
        # First, so that no claim is begun after we have looked. On a full disk, the next to use
        # the folders fails in the same way, and knows what to do about it.
        with contextlib.suppress(OSError):
            await asyncio.to_thread(self._folders.take, c, fence)
        try:
            known = await self._known()
        except OSError as error:
            raise ContainerFailed(f"the spares are not to be read: {error}") from error
        ours = [record for record in known.values() if record.claimed_by == c]
        if not ours:
            return
        running = {one.conversation: one.id for one in await self._inner.list()}
        for record in ours:
            if record.fence > fence:
                raise LeaseLost(c, fence)
            if (id := running.get(record.spare)) is not None:
                await self._inner.stop(id, grace_s=0)
            await self._end_claim(record.spare)

    async def stop(self, id: ContainerId, *, grace_s: float = 2.0) -> None:
        """See `ContainerHost`."""
        await self._inner.stop(id, grace_s=grace_s)
        if (spare := self._claimed.pop(id, None)) is not None:
            await self._end_claim(spare)

    async def _end_claim(self, spare: ConversationKey) -> None:
        """Forget a claim whose container is gone. Raises `ContainerFailed` if files of its
        conversation cannot be moved to where they belong."""
        try:
            await self._finish(spare, is_gone=True, timeout_s=LOCK_S)
        except OSError as error:
            raise ContainerFailed(f"the claim of a spare cannot be finished: {error}") from error

    async def _finish(self, spare: ConversationKey, *, is_gone: bool, timeout_s: float) -> None:
        """Bring a claim to its end that nobody works on. Raises `OSError` and `ContainerFailed`."""
        record = await asyncio.to_thread(self._records.get, spare)
        is_taken_over = record is not None and await self._is_taken_over(record)
        settle = self._withdraw_claim if is_taken_over else self._settle
        await asyncio.to_thread(settle, spare, is_gone=is_gone, timeout_s=timeout_s)

    async def _is_taken_over(self, record: SpareRecord) -> bool:
        """Whether a claim broke off, and a newer owner's container works in the folders that it
        would replace. That one's start found no claim, so nothing was moved."""
        if record.claimed_by is None or record.is_settled:
            return False
        theirs = [one for one in await self.list() if one.conversation == record.claimed_by]
        return any(one.is_running and one.fence > record.fence for one in theirs)

    async def list(self) -> Sequence[Container]:
        """See `ContainerHost`. Without spares that nobody has claimed."""
        found = await self._inner.list()
        records = await self._known()
        shown = []
        for one in found:
            if (record := records.get(one.conversation)) is None:
                shown.append(one)
            elif record.claimed_by is not None:
                self._claimed[one.id] = record.spare
                shown.append(replace(one, conversation=record.claimed_by, fence=record.fence))
        return shown

    async def unlinked_bytes(self, id: ContainerId, workspace: Path) -> int:
        """See `ContainerHost`."""
        return await self._inner.unlinked_bytes(id, workspace)

    async def limit_cpus(self, id: ContainerId, cpus: float) -> None:
        """See `ContainerHost`."""
        await self._inner.limit_cpus(id, cpus)

    def exits(self) -> AsyncIterator[ContainerExit]:
        """See `ContainerHost`. Without those of spares that nobody has claimed."""
        # The watch starts with the call, not with the first look.
        return self._told(self._inner.exits())

    async def aclose(self) -> None:
        """See `ContainerHost`."""
        await self._inner.aclose()

    async def _told(self, exits: AsyncIterator[ContainerExit]) -> AsyncIterator[ContainerExit]:
        async for ended in exits:
            # One small file, and containers seldom end.
            record = self._records.get(ended.conversation)
            if record is None:
                yield ended
            elif record.claimed_by is not None:
                yield replace(ended, conversation=record.claimed_by)
            else:
                self._on_spare_ended(ended.id)

    # Spares

    async def make(self, spare: ConversationKey, worker: WorkerId) -> None:
        """Put a spare on record, before its container is started. Raises `OSError`."""
        await asyncio.to_thread(self._records.make, SpareRecord(spare, worker))

    async def claim(
        self, container: Container, c: ConversationKey, fence: Fence, *, by: WorkerId
    ) -> Container:
        """The spare becomes the conversation's, with its folders.

        Raises `LeaseLost` if the conversation has a newer owner, and `OSError`: the spare is not to
        be had, or the files cannot be moved. Then it has to be removed, except after
        `TooManyEntries`: it is as it was, for a conversation with fewer. A container that the
        conversation has here is removed first, as by a start; if that fails, `ContainerFailed`.
        If cancelled, a spare that has become the conversation's is removed: nobody would know of
        it. What resists then is an orphan for the reconciler.
        """
        if await asyncio.to_thread(self._folders.last_fence, c):
            await self._remove_leftovers(c, fence)
        # A thread cannot be interrupted: it may succeed after its caller has gone.
        claiming = asyncio.get_running_loop().run_in_executor(
            None, self._claim, container.conversation, c, fence, by
        )
        try:
            await asyncio.shield(claiming)
        except asyncio.CancelledError:
            await self._undo(claiming, container)
            raise
        self._claimed[container.id] = container.conversation
        return replace(container, conversation=c, fence=fence)

    async def _undo(self, claiming: asyncio.Future[None], container: Container) -> None:
        await asyncio.wait({claiming})
        if claiming.exception() is not None:
            return
        self._claimed[container.id] = container.conversation
        try:
            await self.stop(container.id, grace_s=0)
        except ContainerFailed as error:
            # A cancellation is being handled; a failure here must not replace it.
            log.error("claimed spare not removed: %s", error, extra=fields(id=container.id))

    async def _remove_leftovers(self, c: ConversationKey, fence: Fence) -> None:
        """Nothing may work in a folder whose files are moved."""
        await self.end_claims_of(c, fence)
        for left in [one for one in await self._inner.list() if one.conversation == c]:
            if left.fence > fence:
                raise LeaseLost(c, fence)
            await self._inner.stop(left.id, grace_s=0)

    async def spares(self) -> Sequence[FoundSpare]:
        """The unclaimed spares of all workers of this host."""
        records = await self._known()
        unclaimed = [record for record in records.values() if record.claimed_by is None]
        listed = await self._inner.list() if unclaimed else ()
        containers = {one.conversation: one for one in listed}
        return [FoundSpare(record, containers.get(record.spare)) for record in unclaimed]

    async def remove(self, spare: ConversationKey, id: ContainerId | None) -> None:
        """Remove a spare, unless a conversation has it by now. From now on none can claim it.

        Raises `ContainerFailed`, and `OSError`.
        """
        if not await asyncio.to_thread(self._withdraw, spare):
            return
        if id is not None:
            await self._inner.stop(id, grace_s=0)
        await asyncio.to_thread(self._forget, spare)

    async def spare_keys(self) -> frozenset[ConversationKey]:
        """The keys of all spares, claimed or not, under which there may be folders."""
        return frozenset(await self._known())

    async def tidy(self) -> None:
        """Finish claims whose worker died, and forget claims whose container is gone. Raises
        `ContainerFailed`."""
        records = await self._known()
        claimed = [record for record in records.values() if record.claimed_by is not None]
        listed = await self._inner.list() if claimed else ()
        running = {one.conversation for one in listed}
        for record in claimed:
            is_gone = record.spare not in running
            try:
                await self._finish(record.spare, is_gone=is_gone, timeout_s=0)
            except LockBusy:
                pass  # Somebody is at it.
            except OSError as error:
                told = fields(spare=record.spare, conversation=record.claimed_by)
                log.error("claim of a spare not finished: %s", error, extra=told)

    async def _known(self) -> dict[ConversationKey, SpareRecord]:
        if not self._records.are_there:
            return {}
        records = await asyncio.to_thread(self._records.all)
        return {record.spare: record for record in records}

    def _claim(
        self, spare: ConversationKey, c: ConversationKey, fence: Fence, by: WorkerId
    ) -> None:
        with self._records.held(spare) as held:
            found = held.record
            if found.claimed_by is not None or found.worker != by:
                raise NotToBeHad(f"spare {spare} is not to be had")
            claimed = replace(found, claimed_by=c, fence=fence)
            try:
                # Written only once it is sure that no newer owner uses the folders.
                self._folders.adopt(spare, c, fence, begin=lambda: held.write(claimed))
            except TooManyEntries:
                raise  # Nothing was begun.
            except NotMovedBack:
                raise  # The claim has to be finished, because files are in both places.
            except (OSError, LeaseLost):
                held.write(replace(found, worker=_NOBODY))
                raise
            held.write(replace(held.record, is_settled=True))

    def _settle(self, spare: ConversationKey, *, is_gone: bool, timeout_s: float) -> None:
        """Bring files of a claim to where they belong. Raises `OSError`."""
        with (
            contextlib.suppress(NotToBeHad),
            self._records.held(spare, timeout_s=timeout_s) as held,
        ):
            record = held.record
            if (c := record.claimed_by) is not None and not record.is_settled:
                log.warning("claim of a spare finished", extra=fields(spare=spare))
                # A newer owner may have died before its start: it has no container.
                fence = max(record.fence, self._folders.last_fence(c))
                self._folders.adopt(spare, c, fence)
                held.write(replace(record, is_settled=True))
            if is_gone:
                held.forget()

    def _withdraw_claim(self, spare: ConversationKey, *, is_gone: bool, timeout_s: float) -> None:
        """Make it a spare again that nobody can claim: it is removed as a leftover."""
        with (
            contextlib.suppress(NotToBeHad),
            self._records.held(spare, timeout_s=timeout_s) as held,
        ):
            if not held.record.is_settled:
                log.warning("claim of a spare withdrawn", extra=fields(spare=spare))
                held.write(replace(held.record, claimed_by=None, worker=_NOBODY))
            elif is_gone:
                held.forget()

    def _withdraw(self, spare: ConversationKey) -> bool:
        """Make sure that nobody claims it. False if it is claimed already, or gone."""
        try:
            with self._records.held(spare) as held:
                if held.record.claimed_by is not None:
                    return False
                held.write(replace(held.record, worker=_NOBODY))
        except NotToBeHad:
            return False
        return True

    def _forget(self, spare: ConversationKey) -> None:
        for drop in (self._folders.drop_sockets, self._folders.drop_workspace):
            drop(spare, _NEWEST)
        with contextlib.suppress(NotToBeHad), self._records.held(spare) as held:
            held.forget()


_NOBODY = WorkerId("")
_NEWEST = Fence(2**53 - 1)
"""The folders of a withdrawn spare are nobody's."""
