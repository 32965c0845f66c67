"""What an agent has made, as its callers see it: the newest kept version of each path.

The files are read from the file store, never from a workspace, so any replica has them, also after
the container and its host are gone. What an agent changed after its last turn is not there yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from infra.runtime.clock import Clock
from infra.store.files.files import FileRecord, FileRecords
from infra.store.files.made import MadeRecords
from infra.wire.errors import FileNotKept, LinkExpired
from infra.wire.ids import ConversationKey, FileId


@dataclass(frozen=True)
class KeptFile:
    """A file of a conversation, and its path in the workspace."""

    record: FileRecord
    path: str


class MadeFiles:
    """See the module. All methods raise `StoreUnavailable`."""

    def __init__(self, *, records: FileRecords, made: MadeRecords, clock: Clock) -> None:
        self._records = records
        self._made = made
        self._clock = clock

    async def of(self, c: ConversationKey) -> Sequence[KeptFile]:
        """The newest version of each file that is kept, by path."""
        noted = await self._made.of(c)
        records = await self._records.get_all([one.file for one in noted])
        newest = dict[str, KeptFile]()
        for one, record in zip(noted, records, strict=True):
            if record is not None and not self._is_expired(record):
                newest[one.path] = KeptFile(record, one.path)
        return sorted(newest.values(), key=lambda kept: kept.path)

    async def at(self, c: ConversationKey, path: str) -> KeptFile:
        """The newest version of one. Raises `FileNotKept`."""
        for kept in await self.of(c):
            if kept.path == path:
                return kept
        raise FileNotKept(path)

    async def one(self, c: ConversationKey, file: str) -> KeptFile:
        """A file by its id, also an older version. Raises `FileNotKept`, also for a file of
        another conversation."""
        for noted in await self._made.of(c):
            if noted.file == file:
                record = await self._records.get(noted.file)
                if record is not None and not self._is_expired(record):
                    return KeptFile(record, noted.path)
        raise FileNotKept(file)

    async def linked(self, file: FileId) -> FileRecord:
        """The file that a link names. Raises `LinkExpired` if it is gone."""
        record = await self._records.get(file)
        if record is None or self._is_expired(record):
            raise LinkExpired(file)
        return record

    def _is_expired(self, record: FileRecord) -> bool:
        return record.expires_ms is not None and record.expires_ms <= self._clock.unix_ms()
