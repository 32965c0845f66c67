"""Files as their tenant sees them: uploaded, listed, shown, read, deleted for good."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from api.files.fields import file_name, life_of, media_type, purpose_of
from api.files.intake import FileIntake
from api.http.auth import Caller
from api.http.edge import FORM_BYTES
from api.http.forms import FormReader
from infra.runtime.clock import Clock
from infra.runtime.identity import new_file_id
from infra.store.files.files import FileFacts, FileRecord, FileRecords
from infra.wire.errors import FileNotKept, RequestRefused
from infra.wire.ids import FileId, file_meant
from infra.wire.text.words import Case, refused


class StoredFiles:
    """See the module. All methods raise `StoreUnavailable` and `FileStoreUnavailable`."""

    def __init__(self, *, records: FileRecords, intake: FileIntake, clock: Clock) -> None:
        self._records = records
        self._intake = intake
        self._clock = clock

    async def upload(self, caller: Caller, form: FormReader, *, length: int | None) -> FileRecord:
        """Keep the file of a form, whose body has that many bytes if its sender said so.

        Raises `RequestRefused`. Then, or if the client leaves, nothing stays.
        """
        file = await form.next_file()
        if file is None or file.field != "file":
            raise RequestRefused("Send the file in the field `file` of the form.", param="file")
        name = file_name(file.name, param="file")
        new = new_file_id(self._clock.unix_ms())
        announced = max(0, (length or 0) - FORM_BYTES)
        arrived = await self._intake.take(new, caller.tenant, form.pieces(), announced=announced)
        try:
            if await form.next_file() is not None:
                raise RequestRefused("Send one file at once.", param="file")
            purpose = purpose_of(form.fields)
            facts = FileFacts(
                name=name,
                type=media_type(file.type),
                purpose=purpose,
                digest=arrived.digest,
                bytes=arrived.bytes,
                life_s=life_of(form.fields, purpose),
            )
            return await self.keep(new, caller, facts)
        except Exception:
            await self._intake.remove(new)
            raise

    async def keep(self, new: FileId, caller: Caller, facts: FileFacts) -> FileRecord:
        """From here on the caller finds it."""
        record = await self._records.keep(
            new, caller.tenant, facts, store=await self._intake.store()
        )
        assert record is not None, "only an upload can be closed"
        return record

    async def page(
        self,
        caller: Caller,
        *,
        purpose: str | None,
        after: str | None,
        limit: int,
        is_rising: bool,
    ) -> tuple[Sequence[FileRecord], bool]:
        """The caller's files, and whether there are more. Raises `RequestRefused` for an `after`
        that is no file's id."""
        behind = None if after is None else file_meant(after)
        if after is not None and behind is None:
            raise RequestRefused("`after` must be the id of a file.", param="after")
        records, has_more = await self._records.page(
            caller.tenant, purpose=purpose, after=behind, limit=limit, is_rising=is_rising
        )
        return [one for one in records if not self._is_expired(one)], has_more

    async def find(self, said: str, caller: Caller) -> FileRecord:
        """Raises `FileNotKept`, also for another tenant's."""
        file = file_meant(said)
        record = None if file is None else await self._records.get(file)
        if record is None or not self._is_found(record, caller):
            raise FileNotKept(said)
        return record

    async def find_all(self, said: Sequence[str], caller: Caller) -> Mapping[str, FileRecord]:
        """Those of many that there are, by what was said, in few round trips."""
        meant = {one: file for one in said if (file := file_meant(one)) is not None}
        records = await self._records.get_all(list(meant.values()))
        return {
            one: record
            for one, record in zip(meant, records, strict=True)
            if record is not None and self._is_found(record, caller)
        }

    def _is_found(self, record: FileRecord, caller: Caller) -> bool:
        return caller.owns(record.tenant) and not self._is_expired(record)

    def _is_expired(self, record: FileRecord) -> bool:
        """Though no worker has removed it yet."""
        return record.expires_ms is not None and record.expires_ms <= self._clock.unix_ms()

    async def reader(self, record: FileRecord) -> Callable[[int, int], AsyncIterator[bytes]]:
        """What reads its bytes, from one place to before another, and raises `FileGone` if it is
        deleted meanwhile. Raises `RequestRefused` if they are in a store that is not ours."""
        if record.store != await self._intake.store():
            raise refused(Case.FILE_ELSEWHERE)
        return lambda start, end: self._intake.pieces(record.id, start=start, end=end)

    async def delete(self, said: str, caller: Caller) -> FileRecord:
        """Delete it everywhere. Raises `FileNotKept`.

        Nobody finds it from here on, even if its bytes cannot be removed at once: a worker does
        that then.
        """
        record = await self.find(said, caller)
        if not await self._records.drop(record.id, caller.tenant):
            raise FileNotKept(said)
        await self._intake.remove_if_ours(record)
        return record
