"""Zips of files that agents made."""

from __future__ import annotations

import asyncio
import io
import zipfile
from collections.abc import AsyncIterator
from contextlib import suppress

from api.files.answer import Reader
from api.files.made_files import KeptFile
from api.files.zipped import THREADS, ZipAnswer
from infra.store.files.files import FileRecord
from infra.wire.ids import FileId, TenantId

CONTENT = b"content"


def kept(path: str) -> KeptFile:
    record = FileRecord(
        id=FileId("file-1"),
        tenant=TenantId("t"),
        store="1",
        name=path,
        bytes=len(CONTENT),
        purpose="assistants_output",
        type="text/plain",
        digest="d",
        created_ms=1_700_000_000_000,
        expires_ms=None,
    )
    return KeptFile(record, path)


class SlowStore:
    """Reads nothing until it may."""

    def __init__(self) -> None:
        self.may_read = asyncio.Event()
        self.readers = 0

    async def read(self, start: int, end: int) -> AsyncIterator[bytes]:
        self.readers += 1
        await self.may_read.wait()
        yield CONTENT[start:end]


def zip_of(read: Reader, *paths: str) -> ZipAnswer:
    return ZipAnswer([(kept(path), read) for path in paths], name="x", send_timeout_s=5)


async def whole(answer: ZipAnswer) -> dict[str, bytes]:
    zipped = b"".join([piece async for piece in answer.pieces()])
    with zipfile.ZipFile(io.BytesIO(zipped)) as read:
        return {name: read.read(name) for name in read.namelist()}


async def test_zips_that_wait_for_a_slow_store_leave_threads_to_all_others() -> None:
    store = SlowStore()
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        zips = [group.create_task(whole(zip_of(store.read, "a.txt"))) for _ in range(40)]
        while store.readers < THREADS:  # noqa: ASYNC110 - a thread gets there
            await asyncio.sleep(0.01)
        assert await asyncio.to_thread(str, 1) == "1"
        store.may_read.set()
    assert [one.result() for one in zips] == [{"a.txt": CONTENT}] * 40


async def test_a_zip_that_nobody_waits_for_gives_its_thread_back() -> None:
    stuck, good = SlowStore(), SlowStore()
    good.may_read.set()
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        zips = [group.create_task(whole(zip_of(stuck.read, "a.txt"))) for _ in range(THREADS)]
        while stuck.readers < THREADS:  # noqa: ASYNC110 - a thread gets there
            await asyncio.sleep(0.01)
        for one in zips:
            one.cancel()
        for one in zips:
            with suppress(asyncio.CancelledError):
                await one
        assert await whole(zip_of(good.read, "b.txt")) == {"b.txt": CONTENT}


async def test_names_that_become_equal_are_numbered() -> None:
    store = SlowStore()
    store.may_read.set()
    paths = ["d/a:b.txt", "d/a?b.txt", "d/a_b.txt", "d/a_b (2).txt", "e"]
    assert list(await whole(zip_of(store.read, *paths))) == [
        "d/a_b.txt",
        "d/a_b (2).txt",
        "d/a_b (3).txt",
        "d/a_b (2) (2).txt",
        "e",
    ]
