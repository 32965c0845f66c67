"""Records of files: begun, kept, listed and let go.

A file's record is there before its first byte is stored and until its last one is removed, so a
program that dies leaves nothing that nobody knows of: what is not finished is due, and a sweep
removes it. A tenant's files are counted in the same steps, so two uploads at once cannot exceed
together what one of them may.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from redis.asyncio import Redis

from infra.runtime.contents import Contents, PlainContents
from infra.store.files.calls import (
    BeginFileCall,
    DropFileCall,
    DueFilesCall,
    ForgetFileCall,
    GrowFileCall,
    KeepFileCall,
    SeeFileStoreCall,
)
from infra.store.keys import Keys
from infra.store.server.connection import translate
from infra.store.server.replies import fields, text
from infra.store.server.scripts import Scripts
from infra.wire.errors import ContentNotOpened, FileNotKept
from infra.wire.ids import FileId, TenantId, UploadId

ALL = "all"
"""In place of a purpose: files of any."""
ALIVE_S = 300.0
"""An upload of which nothing is heard for this long has stopped, and is removed."""
AGAIN_S = 60.0
"""A worker that removes files has this long before a sweep does it again."""
SEEN_S = 180.0
"""A program that has not named its file store for this long no longer uses it."""
LISTED_AT_ONCE = 500

Room = Literal["ok", "many", "much"]
"""Whether a tenant has room for more: too many files, too many bytes."""


@dataclass(frozen=True)
class FileQuota:
    """What a tenant may keep; 0: no limit."""

    files_max: int
    bytes_max: int


@dataclass(frozen=True)
class FileRecord:
    """A file that is kept. Times are Unix time."""

    id: FileId
    tenant: TenantId
    store: str
    """The identity of the file store with its bytes."""
    name: str
    """What its sender calls it. Never used as a path."""
    bytes: int
    purpose: str
    type: str
    """The media type that its sender named; empty if none."""
    digest: str
    """SHA-256, 64 hex digits."""
    created_ms: int
    expires_ms: int | None


@dataclass(frozen=True)
class FileFacts:
    """What becomes known of a file when all of it has arrived."""

    name: str
    type: str
    purpose: str
    digest: str
    bytes: int
    life_s: float | None
    """Seconds until it expires; None: it stays until it is deleted."""


class FileRecords:
    """See the module. All methods raise `StoreUnavailable`."""

    def __init__(self, redis: Redis, keys: Keys, *, contents: Contents | None = None) -> None:
        self._redis = redis
        self._keys = keys
        self._scripts = Scripts(redis, keys)
        self._contents = contents or PlainContents()

    async def begin(
        self, file: FileId, tenant: TenantId, *, store: str, announced: int, quota: FileQuota
    ) -> Room:
        """Count a file whose bytes are about to come, `announced` of them at least."""
        answer = await self._scripts.run(
            BeginFileCall(
                file=file,
                tenant=tenant,
                store=store,
                bytes=announced,
                files_max=quota.files_max,
                bytes_max=quota.bytes_max,
                alive_ms=round(ALIVE_S * 1000),
            ),
            file=self._keys.file(file),
            tenant_filed=self._keys.tenant_filed(tenant),
            files_due=self._keys.files_due(store),
        )
        return answer.outcome

    async def grow(self, file: FileId, *, count: int, quota: FileQuota) -> bool:
        """That many of its bytes have come. Returns whether its tenant may keep as many.

        Raises `FileNotKept` if it is no longer on record: it was given up, or Redis lost it.
        """
        answer = await self._scripts.run(
            GrowFileCall(
                file=file,
                bytes=count,
                bytes_max=quota.bytes_max,
                alive_ms=round(ALIVE_S * 1000),
            ),
            file=self._keys.file(file),
        )
        if answer.outcome == "gone":
            raise FileNotKept(file)
        return answer.outcome == "ok"

    async def keep(
        self,
        file: FileId,
        tenant: TenantId,
        facts: FileFacts,
        *,
        store: str,
        upload: UploadId | None = None,
        parts: Sequence[FileId] = (),
    ) -> FileRecord | None:
        """All of its bytes are stored, and counted (`grow`): from here on its tenant finds it.

        With `upload`, this completes that upload and lets its parts go, whose bytes count for the
        file now; None if the upload was closed meanwhile. Raises `FileNotKept` if the file is no
        longer on record.
        """
        keys = {"file": self._keys.file(file)}
        if upload is not None:
            keys["upload"] = self._keys.upload(upload)
        answer = await self._scripts.run(
            KeepFileCall(
                file=file,
                name=self._contents.seal(facts.name.encode(), _place(file)),
                type=facts.type,
                purpose=facts.purpose,
                digest=facts.digest,
                bytes=facts.bytes,
                life_ms=None if facts.life_s is None else round(facts.life_s * 1000),
                parts=parts,
            ),
            **keys,
        )
        if answer.outcome == "gone":
            raise FileNotKept(file)
        if answer.outcome == "closed":
            return None
        return FileRecord(
            id=file,
            tenant=tenant,
            store=store,
            name=facts.name,
            bytes=facts.bytes,
            purpose=facts.purpose,
            type=facts.type,
            digest=facts.digest,
            created_ms=answer.created_ms,
            expires_ms=answer.expires_ms,
        )

    async def get(self, file: FileId) -> FileRecord | None:
        """A file that is kept; None if there is none, or none yet, or none any more."""
        with translate():
            held = fields(await self._redis.hgetall(self._keys.file(file)))  # type: ignore[misc]
        return self._record(file, held)

    async def page(
        self,
        tenant: TenantId,
        *,
        purpose: str | None,
        after: FileId | None,
        limit: int,
        is_rising: bool,
    ) -> tuple[Sequence[FileRecord], bool]:
        """The tenant's files by their age, those behind `after`, and whether there are more.

        `after` need not exist any more.
        """
        listed = self._keys.tenant_files(tenant, purpose or ALL)
        found = list[FileRecord]()
        while len(found) <= limit:
            count = min(limit + 1 - len(found), LISTED_AT_ONCE)
            ids = await self._ids(listed, after, count=count, is_rising=is_rising)
            found += [record for record in await self._all(ids) if record is not None]
            if len(ids) < count:
                break
            after = ids[-1]
        return found[:limit], len(found) > limit

    async def _ids(
        self, listed: str, after: FileId | None, *, count: int, is_rising: bool
    ) -> list[FileId]:
        # All have the same score, so they stand in the order of their ids, which begin with when
        # each was made.
        behind = None if after is None else f"({after}"
        with translate():
            if is_rising:
                ids = await self._redis.zrangebylex(listed, behind or "-", "+", 0, count)
            else:
                ids = await self._redis.zrevrangebylex(listed, behind or "+", "-", 0, count)
        return [FileId(text(id)) for id in ids]

    async def get_all(self, files: Sequence[FileId]) -> list[FileRecord | None]:
        """The same for many, in their order."""
        found = list[FileRecord | None]()
        for start in range(0, len(files), LISTED_AT_ONCE):
            found += await self._all(files[start : start + LISTED_AT_ONCE])
        return found

    async def _all(self, ids: Sequence[FileId]) -> list[FileRecord | None]:
        if not ids:
            return []
        with translate():
            async with self._redis.pipeline(transaction=False) as pipe:
                for id in ids:
                    pipe.hgetall(self._keys.file(id))
                replies = await pipe.execute()
        return [self._record(id, fields(held)) for id, held in zip(ids, replies, strict=True)]

    async def drop(self, file: FileId, tenant: TenantId | None = None) -> bool:
        """Let a file go: nobody finds it from here on. Returns whether there was one.

        Its bytes are to be removed now, and then `forget` is to be called; a sweep does both if
        the caller dies. With a tenant, only a file of its own that is kept.
        """
        answer = await self._scripts.run(
            DropFileCall(file=file, tenant=tenant, again_ms=round(AGAIN_S * 1000)),
            file=self._keys.file(file),
        )
        return answer.outcome == "ok"

    async def forget(self, file: FileId, *, store: str) -> None:
        """The bytes of a file that was let go are gone."""
        await self._scripts.run(
            ForgetFileCall(file=file),
            file=self._keys.file(file),
            files_due=self._keys.files_due(store),
        )

    async def due(self, store: str, *, limit: int) -> Sequence[FileId]:
        """Files of that store whose bytes are to be removed by the caller, and by nobody else
        within `AGAIN_S`: expired ones, uploads that stopped, and those that others let go and did
        not remove."""
        answer = await self._scripts.run(
            DueFilesCall(most=limit, again_ms=round(AGAIN_S * 1000)),
            files_due=self._keys.files_due(store),
        )
        return answer.found

    async def on_record(self, files: Sequence[FileId]) -> frozenset[FileId]:
        """Those of them that have a record, whatever their state."""
        with translate():
            async with self._redis.pipeline(transaction=False) as pipe:
                for file in files:
                    pipe.exists(self._keys.file(file))
                replies = await pipe.execute()
        return frozenset(file for file, is_known in zip(files, replies, strict=True) if is_known)

    async def may_tidy(self, store: str, *, every_s: float) -> bool:
        """Win the right to look for objects without a record, which one has in `every_s`."""
        with translate():
            key = self._keys.files_tidied(store)
            return bool(await self._redis.set(key, "1", px=round(every_s * 1000), nx=True))

    async def see_store(self, store: str) -> Sequence[str]:
        """Say that this program uses that file store. Returns the identities of others in use."""
        answer = await self._scripts.run(
            SeeFileStoreCall(store=store, alive_ms=round(SEEN_S * 1000)),
            file_stores=self._keys.file_stores(),
        )
        return answer.others

    async def stores_in_use(self) -> Sequence[str]:
        """The identities of file stores that programs named lately."""
        with translate():
            seconds, _ = await self._redis.time()
            found = await self._redis.zrangebyscore(
                self._keys.file_stores(), int(seconds) * 1000, "+inf"
            )
        return [text(one) for one in found]

    def _record(self, file: FileId, held: Mapping[str, str]) -> FileRecord | None:
        if held.get("state") != "ready":
            return None
        return FileRecord(
            id=file,
            tenant=TenantId(held["tenant"]),
            store=held["store"],
            name=self._name(file, held["name"]),
            bytes=int(held["bytes"]),
            purpose=held["purpose"],
            type=held["type"],
            digest=held["digest"],
            created_ms=int(held["created"]),
            expires_ms=int(held["expires"]) if held["expires"] else None,
        )

    def _name(self, file: FileId, kept: str) -> str:
        try:
            return self._contents.open(kept.encode(), _place(file)).decode()
        except ContentNotOpened:
            # Files outlive content secrets. Only the name is lost with an old one.
            return file


def _place(file: FileId) -> str:
    return f"name of {file}"
