"""Sweeps of files: one that cannot be removed delays no other, an absent store ends the round."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from obstore.store import LocalStore

from infra.files.names import file_of, object_name, shards
from infra.files.store import FileStore
from infra.runtime.identity import new_file_id, new_part_id
from infra.store.files.files import FileQuota, FileRecords
from infra.store.keys import Keys
from infra.wire.errors import FileStoreUnavailable
from infra.wire.ids import FileId, TenantId
from tests.fakes.fake_redis import fake_redis
from tests.fakes.manual_clock import ManualClock
from worker.placement.file_sweep import FAILURES_MAX, FileSweep

TENANT = TenantId("t" * 20)
KEYS = Keys("test")


class StubbornStore(FileStore):
    """A folder in which some objects cannot be removed."""

    stubborn: frozenset[str] = frozenset()

    async def delete(self, name: str) -> None:
        if name in self.stubborn:
            raise FileStoreUnavailable("no")
        await super().delete(name)


@pytest.fixture
def files(tmp_path: Path) -> StubbornStore:
    return StubbornStore(LocalStore(tmp_path), is_local=True, place=str(tmp_path))


@pytest.fixture
async def records() -> AsyncIterator[FileRecords]:
    async with fake_redis() as redis:
        yield FileRecords(redis, KEYS)


async def epoch() -> int:
    return 1


def sweep(records: FileRecords, files: FileStore) -> FileSweep:
    return FileSweep(records, files, ManualClock(), epoch=epoch)


async def given_up(records: FileRecords, files: FileStore, count: int) -> list[FileId]:
    """Uploads that stopped, and are due."""
    store = await files.identity()
    ids = [new_file_id(n) for n in range(count)]
    for id in ids:
        await records.begin(id, TENANT, store=store, announced=1, quota=FileQuota(0, 0))
        await files.put_new(object_name(id), b"x")
        await records._redis.zadd(KEYS.files_due(store), {id: 1})
    return ids


def objects_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("file-*") if path.is_file()]


async def left(records: FileRecords, ids: list[FileId]) -> list[FileId]:
    known = await records.on_record(ids)
    return [id for id in ids if id in known]


async def test_all_that_is_due_is_removed_however_much_it_is(
    records: FileRecords, files: StubbornStore, tmp_path: Path
) -> None:
    ids = await given_up(records, files, 120)
    await sweep(records, files).sweep()
    assert await left(records, ids) == []
    assert objects_in(tmp_path) == []


async def test_one_that_cannot_be_removed_delays_no_other(
    records: FileRecords, files: StubbornStore
) -> None:
    ids = await given_up(records, files, 5)
    files.stubborn = frozenset({object_name(ids[0]), object_name(ids[3])})
    await sweep(records, files).sweep()
    assert await left(records, ids) == [ids[0], ids[3]]
    files.stubborn = frozenset()
    await records._redis.zadd(KEYS.files_due(await files.identity()), {ids[0]: 1, ids[3]: 1})
    await sweep(records, files).sweep()
    assert await left(records, ids) == []


async def test_a_store_that_is_away_is_not_asked_for_each_of_them(
    records: FileRecords, files: StubbornStore
) -> None:
    ids = await given_up(records, files, FAILURES_MAX + 3)
    files.stubborn = frozenset(map(object_name, ids))
    with pytest.raises(FileStoreUnavailable):
        await sweep(records, files).sweep()
    assert await left(records, ids) == ids


async def test_two_sweeps_remove_each_file_once(
    records: FileRecords, files: StubbornStore, caplog: pytest.LogCaptureFixture
) -> None:
    ids = await given_up(records, files, 10)
    caplog.set_level("INFO")
    for _ in range(2):
        await sweep(records, files).sweep()
    assert caplog.text.count("file removed") == len(ids)


async def test_another_store_in_use_is_told_once(
    records: FileRecords, files: StubbornStore, caplog: pytest.LogCaptureFixture
) -> None:
    await records.see_store("0123456789abcdef")
    one = sweep(records, files)
    for _ in range(3):
        await one.sweep()
    assert caplog.text.count("do not use") == 1


def ids() -> Iterator[FileId]:
    for n in range(50):
        yield new_file_id(n)
        yield new_part_id(n)


def test_an_objects_name_says_whose_it_is_and_in_which_folder() -> None:
    for id in ids():
        assert file_of(object_name(id)) == id
        assert object_name(id).rpartition("/")[0] in shards()


@pytest.mark.parametrize(
    "name", ["store-id", "files/aa/other", f"files/zz/file-{'0' * 32}", f"file-{'0' * 32}", ""]
)
def test_what_is_not_ours_is_nobodys(name: str) -> None:
    assert file_of(name) is None
