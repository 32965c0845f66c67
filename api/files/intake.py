"""Takes a file's bytes from a request into the file store, within what its tenant may keep.

They pass through: at most a few megabytes of a file are in memory. Its record exists before them
(`infra.store.files.files`), so whatever ends an upload early, nothing of it stays.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from infra.files.names import object_name
from infra.files.store import FileStore
from infra.runtime.logs import fields
from infra.runtime.settings import FileSettings
from infra.store.files.files import FileQuota, FileRecord, FileRecords
from infra.wire.errors import AgClusterError, FileNotKept, RequestRefused
from infra.wire.ids import FileId, TenantId
from infra.wire.text.words import Case, refused

log = logging.getLogger(__name__)

COUNTED_EVERY_BYTES = 8 * 1024 * 1024
COUNTED_EVERY_S = 60.0
"""An upload says at least as often that it goes on, and how much has come."""


@dataclass(frozen=True)
class Arrived:
    """A file whose bytes are all stored."""

    id: FileId
    bytes: int
    digest: str
    """SHA-256."""


class FileIntake:
    """See the module."""

    def __init__(self, settings: FileSettings, *, records: FileRecords, files: FileStore) -> None:
        self.file_max_bytes = settings.file_max_bytes
        self.quota = FileQuota(settings.tenant_files_max, settings.tenant_file_bytes_max)
        self._records = records
        self._files = files

    async def store(self) -> str:
        """The identity of the file store. Raises `FileStoreUnavailable`."""
        return await self._files.identity()

    async def take(
        self,
        file: FileId,
        tenant: TenantId,
        pieces: AsyncIterator[bytes],
        *,
        announced: int,
        max_bytes: int | None = None,
    ) -> Arrived:
        """Store the bytes of a new file, at least `announced` of them if its sender said so.

        The caller then keeps it (`FileRecords.keep`) or removes it. Raises `RequestRefused` if it
        is too large or its tenant keeps too much, `FileStoreUnavailable`, `StoreUnavailable`, and
        whatever `pieces` raises; then nothing of it stays.
        """
        most = self.file_max_bytes if max_bytes is None else max_bytes
        if announced > most:
            raise too_large(most)
        room = await self._records.begin(
            file, tenant, store=await self.store(), announced=announced, quota=self.quota
        )
        if room != "ok":
            raise self._no_room(is_count=room == "many")
        return await self._stored(_Counted(file, pieces, most=most, tell=self.count))

    async def join(self, file: FileId, tenant: TenantId, pieces: AsyncIterator[bytes]) -> Arrived:
        """Store the bytes of a new file that its tenant keeps already, in parts which go when it
        is kept: they are not counted a second time. Raises like `take`."""
        room = await self._records.begin(
            file, tenant, store=await self.store(), announced=0, quota=FileQuota(0, 0)
        )
        assert room == "ok"
        return await self._stored(
            _Counted(file, pieces, most=self.file_max_bytes, tell=self._go_on)
        )

    async def _go_on(self, file: FileId, count: int) -> None:
        await self.count(file, 0)

    async def _stored(self, counted: _Counted) -> Arrived:
        file = counted.file
        try:
            await self._files.put(object_name(file), counted)
            await counted.tell()
        except Exception:
            await self.remove(file)
            raise
        return Arrived(file, counted.bytes, counted.digest)

    async def count(self, file: FileId, count: int) -> None:
        """That many bytes have come. Raises `RequestRefused` if its tenant may not keep as
        many."""
        try:
            has_room = await self._records.grow(file, count=count, quota=self.quota)
        except FileNotKept:
            raise RequestRefused(
                "The upload was given up before it was complete. Send the file again.",
                code=FileNotKept.code,
            ) from None
        if not has_room:
            raise self._no_room(is_count=False)

    async def remove(self, file: FileId) -> None:
        """Remove a file everywhere, as far as is possible now; a sweep does the rest."""
        try:
            await self._records.drop(file)
            await self.remove_bytes(file)
        except AgClusterError as error:
            log.warning("file left to a sweep: %s", error, extra=fields(file=file))

    async def remove_if_ours(self, record: FileRecord) -> None:
        """Remove a file that was let go, unless it is in another store: who uses that removes
        it."""
        try:
            if record.store == await self.store():
                await self.remove_bytes(record.id)
        except AgClusterError as error:
            log.warning("file left to a sweep: %s", error, extra=fields(file=record.id))

    async def remove_bytes(self, file: FileId) -> None:
        """Remove the bytes and then the record of a file that was let go."""
        await self._files.delete(object_name(file))
        await self._records.forget(file, store=await self.store())

    def pieces(self, file: FileId, *, start: int, end: int) -> AsyncIterator[bytes]:
        """Bytes of a stored file."""
        return self._files.pieces(object_name(file), start=start, end=end)

    def _no_room(self, *, is_count: bool) -> RequestRefused:
        if is_count:
            return refused(Case.FILES_COUNTED, files=self.quota.files_max)
        return refused(Case.FILES_WEIGHED, bytes=self.quota.bytes_max)


class _Counted:
    """The pieces of an upload on their way, counted and digested."""

    def __init__(
        self,
        file: FileId,
        pieces: AsyncIterator[bytes],
        *,
        most: int,
        tell: Callable[[FileId, int], Awaitable[None]],
    ) -> None:
        self.file = file
        self.bytes = 0
        self._pieces = pieces
        self._most = most
        self._tell = tell
        self._digest = hashlib.sha256()

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()

    async def tell(self) -> None:
        """Say how much has come."""
        await self._tell(self.file, self.bytes)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        told_bytes, told_s = 0, loop.time()
        async for piece in self._pieces:
            self.bytes += len(piece)
            if self.bytes > self._most:
                raise too_large(self._most)
            self._digest.update(piece)
            is_more = self.bytes - told_bytes >= COUNTED_EVERY_BYTES
            if is_more or loop.time() - told_s >= COUNTED_EVERY_S:
                told_bytes, told_s = self.bytes, loop.time()
                await self.tell()
            yield piece


def too_large(max_bytes: int) -> RequestRefused:
    return refused(Case.FILE_TOO_LARGE, bytes=max_bytes)
