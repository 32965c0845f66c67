"""Records of uploads: files that come in parts, each part a request of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from redis.asyncio import Redis

from infra.runtime.contents import Contents, PlainContents
from infra.store.files.calls import BeginUploadCall, CloseUploadCall, KeepPartCall
from infra.store.files.files import AGAIN_S
from infra.store.keys import Keys
from infra.store.server.connection import translate
from infra.store.server.replies import fields
from infra.store.server.scripts import Scripts
from infra.wire.errors import FileNotKept
from infra.wire.ids import FileId, TenantId, UploadId

OPEN_S = 3600.0
"""Seconds that an upload takes parts."""
UPLOADS_MAX = 1000
"""Uploads of a tenant that are on record."""
SLACK_S = 3600.0
"""Parts stay this much longer, for an upload that is being completed when its time is over."""
SHOWN_S = 3600.0
"""Seconds that an upload can be asked for after its time."""


class UploadStatus(StrEnum):
    """OpenAI's words."""

    PENDING = "pending"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


@dataclass(frozen=True)
class UploadRecord:
    """An upload. Times are Unix time."""

    id: UploadId
    tenant: TenantId
    name: str
    bytes: int
    """Of the file that it makes, as announced."""
    purpose: str
    type: str
    life_s: float | None
    """Of that file."""
    status: UploadStatus
    created_ms: int
    expires_ms: int
    file: FileId | None
    """The file that it made."""


@dataclass(frozen=True)
class NewUpload:
    """What is announced of a file that comes in parts."""

    name: str
    bytes: int
    purpose: str
    type: str
    life_s: float | None


PartRefusal = Literal["closed", "much"]
"""The upload takes no parts any more; the parts are larger than it announced."""


class UploadRecords:
    """See the module. All methods raise `StoreUnavailable`."""

    def __init__(self, redis: Redis, keys: Keys, *, contents: Contents | None = None) -> None:
        self._redis = redis
        self._keys = keys
        self._scripts = Scripts(redis, keys)
        self._contents = contents or PlainContents()

    async def begin(
        self, upload: UploadId, tenant: TenantId, new: NewUpload
    ) -> UploadRecord | None:
        """Record an upload, which takes parts from now on; None if the tenant has too many on
        record."""
        answer = await self._scripts.run(
            BeginUploadCall(
                upload=upload,
                tenant=tenant,
                name=self._contents.seal(new.name.encode(), _place(upload)),
                bytes=new.bytes,
                purpose=new.purpose,
                type=new.type,
                life="" if new.life_s is None else str(new.life_s),
                open_ms=round(OPEN_S * 1000),
                shown_ms=round(SHOWN_S * 1000),
                most=UPLOADS_MAX,
            ),
            upload=self._keys.upload(upload),
            tenant_uploads=self._keys.tenant_uploads(tenant),
        )
        if answer.outcome == "many":
            return None
        return UploadRecord(
            id=upload,
            tenant=tenant,
            name=new.name,
            bytes=new.bytes,
            purpose=new.purpose,
            type=new.type,
            life_s=new.life_s,
            status=UploadStatus.PENDING,
            created_ms=answer.created_ms,
            expires_ms=answer.expires_ms,
            file=None,
        )

    async def get(self, upload: UploadId) -> UploadRecord | None:
        """The record; None if there is none, or no longer."""
        with translate():
            held = fields(await self._redis.hgetall(self._keys.upload(upload)))  # type: ignore[misc]
        if not held:
            return None
        status, expires_ms = UploadStatus(held["status"]), int(held["expires"])
        if status is UploadStatus.PENDING and expires_ms <= await self._now_ms():
            status = UploadStatus.EXPIRED
        return UploadRecord(
            id=upload,
            tenant=TenantId(held["tenant"]),
            name=self._contents.open(held["name"].encode(), _place(upload)).decode(),
            bytes=int(held["bytes"]),
            purpose=held["purpose"],
            type=held["type"],
            life_s=float(held["life"]) if held["life"] else None,
            status=status,
            created_ms=int(held["created"]),
            expires_ms=expires_ms,
            file=FileId(held["file"]) if "file" in held else None,
        )

    async def parts(self, upload: UploadId) -> Mapping[FileId, int]:
        """Its parts, and their bytes."""
        with translate():
            reply = await self._redis.hgetall(self._keys.upload_parts(upload))  # type: ignore[misc]
        return {FileId(part): int(size) for part, size in fields(reply).items()}

    async def keep_part(self, part: FileId, upload: UploadId, *, count: int) -> int | PartRefusal:
        """All bytes of a part are stored, and counted. Returns when that was (Unix ms), or why it
        is not kept. Raises `FileNotKept` if the part is no longer on record."""
        answer = await self._scripts.run(
            KeepPartCall(file=part, bytes=count, slack_ms=round(SLACK_S * 1000)),
            file=self._keys.file(part),
            upload=self._keys.upload(upload),
            upload_parts=self._keys.upload_parts(upload),
        )
        match answer.outcome:
            case "gone":
                raise FileNotKept(part)
            case "ok":
                return answer.created_ms
            case refusal:
                return refusal

    async def cancel(self, upload: UploadId) -> tuple[FileId, ...] | None:
        """Let it and its parts go. Returns the parts, whose bytes are to be removed now; None if it
        takes no parts any more in any case."""
        answer = await self._scripts.run(
            CloseUploadCall(again_ms=round(AGAIN_S * 1000)),
            upload=self._keys.upload(upload),
            upload_parts=self._keys.upload_parts(upload),
        )
        return tuple(answer.parts) if answer.outcome == "ok" else None

    async def _now_ms(self) -> int:
        with translate():
            seconds, micros = await self._redis.time()
        return int(seconds) * 1000 + int(micros) // 1000


def _place(upload: UploadId) -> str:
    return f"name of {upload}"
