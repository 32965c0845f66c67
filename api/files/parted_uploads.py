"""Uploads in parts, as their tenant sees them: begun, sent part by part, completed, cancelled."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import AsyncIterator, Mapping, Sequence

from api.files.fields import default_life, file_name, media_type
from api.files.intake import FileIntake, too_large
from api.files.shapes import NewUploadBody
from api.http.auth import Caller
from api.http.edge import FORM_BYTES
from api.http.forms import FormReader
from infra.runtime.clock import Clock
from infra.runtime.identity import new_file_id, new_part_id, new_upload_id
from infra.store.files.files import FileFacts, FileRecord, FileRecords
from infra.store.files.uploads import (
    UPLOADS_MAX,
    NewUpload,
    UploadRecord,
    UploadRecords,
    UploadStatus,
)
from infra.wire.errors import FileGone, FileNotKept, RequestRefused
from infra.wire.ids import FileId, TenantId, UploadId, upload_meant
from infra.wire.text.words import Case, refused

PART_MAX_BYTES = 64 * 1024 * 1024
"""OpenAI's, and what its clients send at once."""


class PartedUploads:
    """See the module. All methods raise `StoreUnavailable` and `FileStoreUnavailable`."""

    def __init__(
        self, *, uploads: UploadRecords, records: FileRecords, intake: FileIntake, clock: Clock
    ) -> None:
        self._uploads = uploads
        self._records = records
        self._intake = intake
        self._clock = clock

    async def begin(self, caller: Caller, body: NewUploadBody) -> UploadRecord:
        """Take parts of a new file from now on. Raises `RequestRefused`."""
        if body.bytes > self._intake.file_max_bytes:
            raise too_large(self._intake.file_max_bytes)
        life_s = default_life(body.purpose)
        if (expires := body.expires_after) is not None:
            if expires.anchor != "created_at":
                raise RequestRefused(
                    "`expires_after.anchor` must be `created_at`.", param="expires_after.anchor"
                )
            life_s = float(expires.seconds)
        new = NewUpload(
            name=file_name(body.filename, param="filename"),
            bytes=body.bytes,
            purpose=body.purpose,
            type=media_type(body.mime_type),
            life_s=life_s,
        )
        record = await self._uploads.begin(new_upload_id(), caller.tenant, new)
        if record is None:
            raise refused(Case.KEY_UPLOADS, uploads=UPLOADS_MAX)
        return record

    async def find(self, said: str, caller: Caller) -> UploadRecord:
        """Raises `FileNotKept`, also for another tenant's."""
        upload = upload_meant(said)
        record = None if upload is None else await self._uploads.get(upload)
        if record is None or not caller.owns(record.tenant):
            raise FileNotKept(said)
        return record

    async def add_part(
        self, said: str, caller: Caller, form: FormReader, *, length: int | None
    ) -> tuple[FileId, int]:
        """Keep a part. Returns its id, and when that was (Unix ms). Raises `RequestRefused`."""
        record = await self.find(said, caller)
        _require_open(record)
        file = await form.next_file()
        if file is None or file.field != "data":
            raise RequestRefused("Send the part in the field `data` of the form.", param="data")
        part = new_part_id(self._clock.unix_ms())
        arrived = await self._intake.take(
            part,
            caller.tenant,
            form.pieces(),
            announced=max(0, (length or 0) - FORM_BYTES),
            max_bytes=min(PART_MAX_BYTES, self._intake.file_max_bytes),
        )
        try:
            if await form.next_file() is not None:
                raise RequestRefused("Send one part at once.", param="data")
            kept = await self._uploads.keep_part(part, record.id, count=arrived.bytes)
            if kept == "much":
                raise RequestRefused(
                    f"The parts are larger together than the {record.bytes} bytes that the upload "
                    "announced.",
                    param="data",
                )
            if not isinstance(kept, int):
                raise _closed((await self.find(said, caller)).status)
        except Exception:
            await self._intake.remove(part)
            raise
        return part, kept

    async def complete(
        self, said: str, caller: Caller, *, part_ids: Sequence[str], md5: str | None
    ) -> tuple[UploadRecord, FileRecord]:
        """Make the file of these parts, in this order. An upload that is complete already is
        returned as it is, for a client whose answer was lost. Raises `RequestRefused`."""
        record = await self.find(said, caller)
        if record.status is UploadStatus.COMPLETED:
            return record, await self._file_of(record)
        _require_open(record)
        parts = _in_order(part_ids, await self._uploads.parts(record.id), record)
        file = await self._join(record, caller.tenant, parts, md5=md5)
        if file is None:
            # Completed by another request, or cancelled, while the parts were put together.
            record = await self.find(said, caller)
            if record.status is not UploadStatus.COMPLETED:
                raise _closed(record.status)
            return record, await self._file_of(record)
        for part in parts:
            await self._intake.remove(part)
        return await self.find(said, caller), file

    async def cancel(self, said: str, caller: Caller) -> UploadRecord:
        """Take no more parts, and delete those that have come. Raises `RequestRefused`."""
        record = await self.find(said, caller)
        parts = await self._uploads.cancel(record.id)
        if parts is None and record.status is not UploadStatus.CANCELLED:
            raise _closed(record.status)
        for part in parts or ():
            await self._intake.remove(part)
        return await self.find(said, caller)

    async def file_made(self, record: UploadRecord) -> FileRecord | None:
        """The file of a completed upload, if it is still there."""
        return None if record.file is None else await self._records.get(record.file)

    async def _file_of(self, record: UploadRecord) -> FileRecord:
        file = await self.file_made(record)
        if file is None:
            raise FileNotKept(record.id)
        return file

    async def _join(
        self,
        record: UploadRecord,
        tenant: TenantId,
        parts: Mapping[FileId, int],
        *,
        md5: str | None,
    ) -> FileRecord | None:
        new = new_file_id(self._clock.unix_ms())
        check = hashlib.md5(usedforsecurity=False)
        try:
            arrived = await self._intake.join(new, tenant, self._bytes_of(parts, check))
        except FileGone:
            raise FileNotKept(record.id) from None
        try:
            if md5 is not None and not hmac.compare_digest(
                check.hexdigest().encode(), md5.lower().encode(errors="replace")
            ):
                raise RequestRefused("The parts have another MD5 digest.", param="md5")
            facts = FileFacts(
                name=record.name,
                type=record.type,
                purpose=record.purpose,
                digest=arrived.digest,
                bytes=arrived.bytes,
                life_s=record.life_s,
            )
            kept = await self._records.keep(
                new,
                tenant,
                facts,
                store=await self._intake.store(),
                upload=UploadId(record.id),
                parts=tuple(parts),
            )
        except Exception:
            await self._intake.remove(new)
            raise
        if kept is None:
            await self._intake.remove(new)
        return kept

    async def _bytes_of(
        self, parts: Mapping[FileId, int], check: hashlib._Hash
    ) -> AsyncIterator[bytes]:
        for part, count in parts.items():
            async for piece in self._intake.pieces(part, start=0, end=count):
                check.update(piece)
                yield piece


def _in_order(
    said: Sequence[str], parts: Mapping[FileId, int], record: UploadRecord
) -> dict[FileId, int]:
    """The parts that were named, with their bytes. Raises `RequestRefused` if they are not the
    file that was announced."""
    chosen = {FileId(id): parts[FileId(id)] for id in said if FileId(id) in parts}
    if len(chosen) != len(said):
        raise RequestRefused(
            "`part_ids` must name parts of this upload, each once.", param="part_ids"
        )
    if sum(chosen.values()) != record.bytes:
        raise RequestRefused(
            f"The parts have {sum(chosen.values())} bytes, and the upload announced "
            f"{record.bytes}.",
            param="part_ids",
        )
    return chosen


def _require_open(record: UploadRecord) -> None:
    if record.status is not UploadStatus.PENDING:
        raise _closed(record.status)


def _closed(status: UploadStatus) -> RequestRefused:
    return RequestRefused(f"The upload is {status.value}. Begin another one.", param="upload_id")
