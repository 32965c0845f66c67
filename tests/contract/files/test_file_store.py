"""Objects are there whole or not at all, and come back piece by piece."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from infra.files.store import NAME, PART_BYTES, PIECE_BYTES, FileStore
from infra.wire.errors import FileGone, FileStoreUnavailable
from tests.contract.files.conftest import Shelf

LARGE = 2 * PART_BYTES + 12_345


class SenderLeft(Exception):
    """What a broken connection raises."""


async def chunks(content: bytes, *, each: int = 65536) -> AsyncIterator[bytes]:
    for at in range(0, len(content), each):
        yield content[at : at + each]


async def breaking(content: bytes) -> AsyncIterator[bytes]:
    async for chunk in chunks(content):
        yield chunk
    raise SenderLeft


async def whole(files: FileStore, name: str, size: int) -> bytes:
    return b"".join([piece async for piece in files.pieces(name, start=0, end=size)])


@pytest.mark.parametrize("size", [0, 1, 65536, PIECE_BYTES + 1, LARGE])
async def test_what_is_put_is_read(shelf: Shelf, size: int) -> None:
    content = secrets.token_bytes(size)
    await shelf.files.put("files/aa/one", chunks(content))
    assert await whole(shelf.files, "files/aa/one", size) == content
    assert await whole(shelf.again(), "files/aa/one", size) == content


async def test_ranges_are_read_in_pieces(shelf: Shelf) -> None:
    content = secrets.token_bytes(2 * PIECE_BYTES + 100)
    await shelf.files.put("files/aa/one", chunks(content))
    found = [
        piece async for piece in shelf.files.pieces("files/aa/one", start=7, end=len(content) - 3)
    ]
    assert b"".join(found) == content[7:-3]
    assert len(found) == 3


@pytest.mark.parametrize("size", [10, LARGE])
async def test_nothing_stays_of_a_put_whose_sender_fails(shelf: Shelf, size: int) -> None:
    with pytest.raises(SenderLeft):
        await shelf.files.put("files/aa/one", breaking(secrets.token_bytes(size)))
    assert shelf.names() == []
    assert shelf.unfinished() == []


@pytest.mark.parametrize("size", [10, LARGE])
async def test_nothing_stays_of_a_put_that_is_cancelled(shelf: Shelf, size: int) -> None:
    """An object store would keep the parts that had come, for ever and for money."""
    is_stuck = asyncio.Event()

    async def stuck() -> AsyncIterator[bytes]:
        async for chunk in chunks(secrets.token_bytes(size)):
            yield chunk
        is_stuck.set()
        await asyncio.Event().wait()

    async with asyncio.TaskGroup() as group:
        putting = group.create_task(shelf.files.put("files/aa/one", stuck()))
        async with asyncio.timeout(20):
            await is_stuck.wait()
        putting.cancel()
        with suppress(asyncio.CancelledError):
            async with asyncio.timeout(20):
                await putting
        assert putting.cancelled()
    assert shelf.names() == []
    assert shelf.unfinished() == []


async def test_an_object_is_replaced_whole(shelf: Shelf) -> None:
    await shelf.files.put("files/aa/one", chunks(b"old"))
    with pytest.raises(SenderLeft):
        await shelf.files.put("files/aa/one", breaking(b"new"))
    assert await whole(shelf.files, "files/aa/one", 3) == b"old"


async def test_put_new_takes_nobodys_place(shelf: Shelf) -> None:
    async with asyncio.TaskGroup() as group:
        tries = [
            group.create_task(shelf.again().put_new("files/aa/one", b"%d" % n)) for n in range(4)
        ]
    assert sorted(one.result() for one in tries) == [False, False, False, True]
    winner = next(n for n, one in enumerate(tries) if one.result())
    assert await whole(shelf.files, "files/aa/one", 1) == b"%d" % winner


async def test_what_is_deleted_is_gone_and_may_be_deleted_again(shelf: Shelf) -> None:
    await shelf.files.put("files/aa/one", chunks(b"here"))
    for _ in range(2):
        await shelf.files.delete("files/aa/one")
    assert shelf.names() == []
    with pytest.raises(FileGone):
        await whole(shelf.files, "files/aa/one", 4)


async def test_an_object_shorter_than_its_record_is_gone(shelf: Shelf) -> None:
    await shelf.files.put("files/aa/one", chunks(b"short"))
    with pytest.raises(FileGone):
        await whole(shelf.files, "files/aa/one", 6)


@pytest.mark.parametrize("name", ["../up", "files/../../up", "files/a\0b", "files//b"])
async def test_a_name_that_is_a_way_out_is_refused(shelf: Shelf, name: str) -> None:
    """None of ours is; should one ever be, the store says no."""
    with pytest.raises(FileStoreUnavailable):
        await shelf.files.put_new(name, b"x")
    assert shelf.names() == []


async def test_a_folder_is_listed(shelf: Shelf) -> None:
    for name in ("files/aa/one", "files/aa/two", "files/bb/three"):
        await shelf.files.put(name, chunks(b"123"))
    found = [one async for page in shelf.files.list("files/aa") for one in page]
    assert sorted((one.name, one.bytes) for one in found) == [
        ("files/aa/one", 3),
        ("files/aa/two", 3),
    ]
    assert all(-60 < one.age_s < 60 for one in found)
    assert [one async for page in shelf.files.list("files/cc") for one in page] == []


async def test_all_who_use_a_store_know_it_by_the_same_name(shelf: Shelf) -> None:
    assert await shelf.files.known_identity() is None
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(shelf.again().identity()) for _ in range(4)]
    assert len({one.result() for one in asked}) == 1
    assert shelf.names() == [NAME]


async def test_a_store_with_something_else_in_the_place_of_its_name_is_refused(
    shelf: Shelf,
) -> None:
    await shelf.files.put_new(NAME, b"something of others")
    with pytest.raises(FileStoreUnavailable, match="not ours"):
        await shelf.files.identity()
