"""Removes files that are to go: expired ones, uploads that stopped, and deletes that were not
finished.

Every worker sweeps, and each file goes to one of them (`due_files.lua`). So nothing depends on the
program that an upload came to. What Redis has forgotten altogether is found by looking through the
file store, which one worker does at a time, and rarely.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence

from infra.files.names import file_of, object_name, shards
from infra.files.store import FileStore, StoredObject
from infra.runtime.clock import Clock
from infra.runtime.logs import fields
from infra.store.files.files import FileRecords
from infra.wire.errors import FileStoreUnavailable
from infra.wire.ids import FileId
from worker.waiting import periodically

log = logging.getLogger(__name__)

AT_ONCE = 50
EVERY_AT_LEAST_S, EVERY_AT_MOST_S = 20.0, 40.0
TIDIED_EVERY_S = 6 * 3600.0
"""Between two looks through the whole store."""
FORGOTTEN_AFTER_S = 7 * 86400.0
"""An object without a record is kept this long, in which a backup of Redis may be restored."""
FAILURES_MAX = 3


class FileSweep:
    """The sweeps of one worker."""

    def __init__(
        self,
        records: FileRecords,
        files: FileStore,
        clock: Clock,
        *,
        epoch: Callable[[], Awaitable[int]],
        forgotten_after_s: float = FORGOTTEN_AFTER_S,
    ) -> None:
        self._records = records
        self._files = files
        self._clock = clock
        self._epoch = epoch
        self._forgotten_after_s = forgotten_after_s
        self._others: Sequence[str] = ()

    async def run(self) -> None:
        """Sweep until cancelled."""
        await periodically(
            self.sweep,
            self._clock,
            name="files",
            at_least_s=EVERY_AT_LEAST_S,
            at_most_s=EVERY_AT_MOST_S,
        )

    async def sweep(self) -> None:
        """One round. Raises `StoreUnavailable` and `FileStoreUnavailable`."""
        store = await self._files.identity()
        await self._look_at_others(store)
        while len(due := await self._records.due(store, limit=AT_ONCE)) > 0:
            await self._remove(due, store)
            if len(due) < AT_ONCE:
                break
        if await self._records.may_tidy(store, every_s=TIDIED_EVERY_S):
            await self.tidy()

    async def tidy(self) -> None:
        """Remove old objects that no record knows, because Redis lost its last second.

        Not if this Redis is another than that of the store's first records: it was emptied, or the
        store is another cluster's as well. Then nothing says which objects may go.
        """
        if not await self._files.belongs_to(await self._epoch()):
            log.warning(
                "files without a record stay in %s: it was first used with another Redis",
                self._files.place,
            )
            return
        for shard in shards():
            async for page in self._files.list(shard):
                await self._tidy_page(page)

    async def _look_at_others(self, store: str) -> None:
        others = await self._records.see_store(store)
        if others != self._others and (told := self._files.warning(others)):
            log.warning("%s", told)
        self._others = others

    async def _remove(self, due: Sequence[FileId], store: str) -> None:
        failures = 0
        for file in due:
            try:
                await self._files.delete(object_name(file))
            except FileStoreUnavailable as error:
                # It is due again in a minute. One that cannot be removed must not delay the others.
                log.warning("file not removed: %s", error, extra=fields(file=file))
                failures += 1
                if failures >= FAILURES_MAX:
                    raise
                continue
            await self._records.forget(file, store=store)
            log.info("file removed", extra=fields(file=file))

    async def _tidy_page(self, page: Sequence[StoredObject]) -> None:
        old = {
            file: found.name
            for found in page
            if found.age_s > self._forgotten_after_s and (file := file_of(found.name))
        }
        if not old:
            return
        known = await self._records.on_record(tuple(old))
        for file, name in old.items():
            if file not in known:
                log.warning("a file without a record is removed", extra=fields(file=file))
                await self._files.delete(name)
