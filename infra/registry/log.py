"""The catalogue's log: records in the file store, numbered without gaps.

The next record is put under the next number if that is free, which a file store decides for all
programs at once. So nothing is ever overwritten, two publishers cannot take one number, and a
program that has read to some number goes on from there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator

from pydantic import TypeAdapter, ValidationError

from infra.files.store import FileStore
from infra.registry.records import (
    RECORD_MAX_BYTES,
    CatalogueRecord,
    PublishedVersion,
    StatusChanged,
)
from infra.runtime.logs import fields

log = logging.getLogger(__name__)

FOLDER = "registry"
RECORDS_MAX = 20_000
READ_AT_ONCE = 32

_RECORD: TypeAdapter[PublishedVersion | StatusChanged] = TypeAdapter(CatalogueRecord)


class RecordLog:
    """Appends and reads. Every method raises `FileStoreUnavailable`."""

    def __init__(self, files: FileStore) -> None:
        self._files = files

    async def append(self, record: PublishedVersion | StatusChanged, *, number: int) -> bool:
        """Write it as that number, unless there is a record of it. Returns whether it was
        written."""
        return await self._files.put_new(_name(number), record.model_dump_json().encode())

    async def after(
        self, number: int
    ) -> AsyncGenerator[tuple[int, PublishedVersion | StatusChanged | None], None]:
        """The records behind that number; None for one that this version cannot read."""
        at_once = 1  # Mostly there is nothing new, which one request finds out.
        while number < RECORDS_MAX:
            numbers = range(number + 1, number + 1 + at_once)
            found = await asyncio.gather(*map(self._raw, numbers))
            for at, raw in zip(numbers, found, strict=True):
                if raw is None:
                    return
                yield at, _read(raw, at)
            number, at_once = number + at_once, READ_AT_ONCE

    async def _raw(self, number: int) -> bytes | None:
        return await self._files.whole(_name(number), max_bytes=RECORD_MAX_BYTES)


def _name(number: int) -> str:
    return f"{FOLDER}/log/{number:012d}"


def _read(raw: bytes, number: int) -> PublishedVersion | StatusChanged | None:
    try:
        return _RECORD.validate_json(raw)
    except ValidationError:
        log.error("a record of the registry is not readable", extra=fields(number=number))
        return None
