"""The catalogue: which versions of which agents and MCP servers there are, and for whom.

A program reads the log once and then what is new, so a question is answered from memory, and every
program sees what was published a moment ago. Contents are objects named by their digests, so a
version can never become something else.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections import OrderedDict
from contextlib import aclosing

from infra.files.store import FileStore
from infra.registry.entries import CatalogueEntries, CatalogueQuery, FoundEntry
from infra.registry.log import FOLDER, RECORDS_MAX, RecordLog
from infra.registry.records import CatalogueEntry, PublishedVersion, StatusChanged
from infra.releases.refused import ReleaseRefused
from infra.runtime.clock import Clock
from infra.wire.errors import FileGone, FileStoreUnavailable

log = logging.getLogger(__name__)

LOOK_EVERY_S = 2.0
TRIES_MAX = 50
"""TrustedPublishers that may get ahead of one while it publishes."""
REMEMBERED_MAX_BYTES = 16 * 1024 * 1024


class Catalogue:
    """One program's view of the catalogue, and its way to add to it."""

    def __init__(self, files: FileStore, clock: Clock) -> None:
        self._files = files
        self._log = RecordLog(files)
        self._clock = clock
        self._lock = asyncio.Lock()
        self._looked_s: float | None = None
        self._entries = CatalogueEntries()
        self._contents = _Remembered()

    async def look(self, *, every_s: float = LOOK_EVERY_S) -> None:
        """Read what is new, unless that was done just now.

        If the file store does not answer, what is known already counts on; raises
        `FileStoreUnavailable` if that is nothing.
        """
        async with self._lock:
            now_s = self._clock.monotonic()
            if self._looked_s is not None and now_s < self._looked_s + every_s:
                return
            try:
                await self._read_on()
            except FileStoreUnavailable as error:
                if self._looked_s is None:
                    raise
                log.warning("the registry is not read, what is known counts on: %s", error)
            self._looked_s = now_s

    async def publish(self, new: PublishedVersion, content: bytes) -> CatalogueEntry:
        """Store a version for good; the same once more changes nothing.

        `id`, `digest` and `bytes` are filled in here. Raises `ReleaseRefused` if there is another
        one of this name and version, or a name that looks the same, and `FileStoreUnavailable`.
        """
        digest = hashlib.sha256(content).hexdigest()
        own = {"id": secrets.token_hex(8), "digest": digest, "bytes": len(content)}
        new = new.model_copy(update=own)
        await self._read_all()
        if (entry := self._entries.same(new)) is not None:
            return entry
        self._entries.require_new(new)
        await self._files.put_new(_content_name(digest), content)
        await self._append(new)
        entry = self._entries.same(new)
        assert entry is not None
        return entry

    async def set_status(self, change: StatusChanged) -> None:
        """Raises `ReleaseRefused` if there is no such version, and `FileStoreUnavailable`."""
        await self._read_all()
        self._entries.require_known(change)
        await self._append(change.model_copy(update={"id": secrets.token_hex(8)}))

    async def page(
        self, query: CatalogueQuery, *, after: str | None = None, limit: int
    ) -> tuple[list[FoundEntry], str | None]:
        """The versions that are asked for, by name, and the cursor of the next page.

        Raises `NoSuchCursor` and `FileStoreUnavailable`.
        """
        await self.look()
        return self._entries.page(query, after=after, limit=limit)

    async def versions(self, query: CatalogueQuery, name: str) -> list[FoundEntry]:
        """All versions of one name that its reader may see, the newest first. Raises
        `FileStoreUnavailable`."""
        await self.look()
        return self._entries.versions(query, name)

    async def one(self, query: CatalogueQuery, name: str, version: str) -> FoundEntry | None:
        """One version; `latest` is the latest that its reader may see. Raises
        `FileStoreUnavailable`."""
        await self.look()
        return self._entries.one(query, name, version)

    async def content(self, entry: CatalogueEntry) -> bytes:
        """A version's contents.

        Raises `FileGone` if they are not what was published, and `FileStoreUnavailable`.
        """
        digest = entry.published.digest
        if (known := self._contents.get(digest)) is not None:
            return known
        raw = await self._files.whole(_content_name(digest), max_bytes=entry.published.bytes)
        if raw is None or hashlib.sha256(raw).hexdigest() != digest:
            raise FileGone(f"the contents of {entry.published.name} are not what was published")
        self._contents.add(digest, raw)
        return raw

    async def _append(self, record: PublishedVersion | StatusChanged) -> None:
        for _ in range(TRIES_MAX):
            if self._entries.read_to >= RECORDS_MAX:
                raise ReleaseRefused("the registry is full")
            await self._log.append(record, number=self._entries.read_to + 1)
            await self._read_all()
            # The store may have taken it although its answer was lost, and another try then found
            # a record there: our own.
            if self._entries.has_read(record):
                return
            if isinstance(record, PublishedVersion):
                self._entries.require_new(record)
        raise FileStoreUnavailable("too many others publish at the moment")

    async def _read_all(self) -> None:
        async with self._lock:
            await self._read_on()

    async def _read_on(self) -> None:
        async with aclosing(self._log.after(self._entries.read_to)) as records:
            async for number, record in records:
                self._entries.take(record, number)


class _Remembered:
    """Contents by digest, those of the longest ago forgotten first."""

    def __init__(self) -> None:
        self._contents: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0

    def get(self, digest: str) -> bytes | None:
        if digest in self._contents:
            self._contents.move_to_end(digest)
        return self._contents.get(digest)

    def add(self, digest: str, raw: bytes) -> None:
        if digest in self._contents:
            return
        self._contents[digest] = raw
        self._bytes += len(raw)
        while self._bytes > REMEMBERED_MAX_BYTES:
            _, oldest = self._contents.popitem(last=False)
            self._bytes -= len(oldest)


def _content_name(digest: str) -> str:
    return f"{FOLDER}/contents/{digest[:2]}/{digest}"
