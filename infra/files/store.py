"""The file store: bytes under names of ours, in a folder or in an object store, by `obstore`.

Names are made of ids, never of what a user wrote. Bytes come and go in pieces, so a file of any
size takes the memory of a few. An object is there whole or not at all. Who owns it, and for how
long, is on record in Redis (`infra.store.files`); nothing here knows of tenants.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar, cast

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import ObjectStore

from infra.metrics.files import counted_file_call
from infra.wire.errors import FileGone, FileStoreUnavailable
from infra.wire.text.foreign import foreign

log = logging.getLogger(__name__)

T = TypeVar("T")

PART_BYTES = 5 * 1024 * 1024
"""Bytes sent to an object store at once: the least that S3 takes for a part of a larger object."""
PUT_HOLDS_BYTES = 2 * PART_BYTES
"""At most this much of a file is in memory while it is written."""
PIECE_BYTES = 1024 * 1024
"""Bytes read at once. Each piece is a request of its own, so a slow reader keeps none open."""
CALL_TIMEOUT_S = 60.0
"""For one call, a part of a put among them, including the client's own retries."""
NAME = "store-id"
"""The object that names this store; all programs of a cluster should find the same."""
OWNER = "store-owner"
"""The object that says which Redis has the records of the others."""
_FAULTS: tuple[type[Exception], ...] = (BaseError, OSError, ValueError, TimeoutError)


class Chunks(Protocol):
    """The bytes to store, in order."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...


@dataclass(frozen=True)
class StoredObject:
    """One object of a listing."""

    name: str
    bytes: int
    age_s: float


class FileStore:
    """Objects by name. Every method raises `FileStoreUnavailable` if the store does not answer,
    refuses, or is full."""

    def __init__(self, objects: ObjectStore, *, is_local: bool, place: str) -> None:
        self._objects = objects
        self.is_local = is_local
        """Whether it is a folder, which programs on other machines do not see."""
        self.place = place
        """For people: the folder, or the URL without its options."""
        self._identity: str | None = None

    @counted_file_call
    async def put(self, name: str, chunks: Chunks) -> None:
        """Store an object. Nothing of it stays if `chunks` raises, which is raised here, or if the
        caller is cancelled."""
        source = _Source(chunks)
        # Not cancelled itself: an object store would keep the parts that have arrived. It ends by
        # itself, and removes them, when its source breaks off.
        putting: asyncio.Future[Any] = cast(
            "asyncio.Future[Any]",  # It says it is a coroutine, and returns what runs already.
            obstore.put_async(
                self._objects, name, source, chunk_size=PART_BYTES, max_concurrency=1
            ),
        )
        try:
            await asyncio.shield(putting)
        except asyncio.CancelledError:
            while not putting.done():
                source.break_off()
                # A second cancellation changes nothing: the first one is raised below.
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([putting], timeout=CALL_TIMEOUT_S)
            with suppress(Exception, asyncio.CancelledError):
                putting.result()
            raise
        except _FAULTS as error:
            if source.failure is not None:
                raise source.failure from None
            raise _unavailable("not stored", error) from error
        if source.failure is not None:
            raise source.failure

    @counted_file_call
    async def put_new(self, name: str, content: bytes) -> bool:
        """Store a small object unless there is one of that name. Returns whether it was stored."""
        try:
            await _bounded(obstore.put_async(self._objects, name, content, mode="create"))
        except AlreadyExistsError:
            return False
        except _FAULTS as error:
            raise _unavailable("not stored", error) from error
        return True

    async def pieces(self, name: str, *, start: int, end: int) -> AsyncIterator[bytes]:
        """The bytes from `start` to before `end`, which must be within the object.

        Raises `FileGone` if there is no such object, or no longer.
        """
        while start < end:
            until = min(start + PIECE_BYTES, end)
            piece = await self.read(name, start=start, end=until)
            if len(piece) != until - start:
                raise FileGone(f"the object is shorter than its record ({name})")
            yield piece
            start = until

    @counted_file_call
    async def read(self, name: str, *, start: int, end: int) -> bytes:
        """One piece of an object. Raises `FileGone` if there is no such object."""
        try:
            return bytes(
                await _bounded(obstore.get_range_async(self._objects, name, start=start, end=end))
            )
        except FileNotFoundError:
            raise FileGone(f"there is no such object ({name})") from None
        except _FAULTS as error:
            raise _unavailable("not read", error) from error

    @counted_file_call
    async def whole(self, name: str, *, max_bytes: int) -> bytes | None:
        """A small object; None if there is none of that name.

        A larger one is `FileStoreUnavailable`, and is not read.
        """
        try:
            found = await _bounded(obstore.get_async(self._objects, name))
            if found.meta["size"] > max_bytes:
                raise FileStoreUnavailable(f"the object {name} is larger than it may be")
            return bytes(await _bounded(found.bytes_async()))
        except FileNotFoundError:
            return None
        except _FAULTS as error:
            raise _unavailable("not read", error) from error

    @counted_file_call
    async def delete(self, name: str) -> None:
        """Remove an object. It is not an error if there is none."""
        try:
            await _bounded(obstore.delete_async(self._objects, name))
        except FileNotFoundError:
            return
        except _FAULTS as error:
            raise _unavailable("not deleted", error) from error

    async def list(self, folder: str) -> AsyncIterator[Sequence[StoredObject]]:
        """All objects whose names begin with `folder` and a slash, a thousand at once."""
        listing = obstore.list(self._objects, folder, chunk_size=1000)
        now = datetime.now(UTC)
        try:
            while page := await _bounded(anext(listing, None)):
                yield [
                    StoredObject(
                        name=found["path"],
                        bytes=found["size"],
                        age_s=(now - found["last_modified"]).total_seconds(),
                    )
                    for found in page
                ]
        except FileNotFoundError:
            return
        except _FAULTS as error:
            raise _unavailable("not listed", error) from error

    async def identity(self) -> str:
        """What names this store, made when it is first used. 16 hex digits.

        Two programs with another identity do not see each other's files.
        """
        if self._identity is None:
            await self.put_new(NAME, secrets.token_hex(8).encode())
            self._identity = await self.known_identity()
            if self._identity is None:
                raise FileStoreUnavailable(f"the object {NAME} of the file store is gone")
        return self._identity

    async def known_identity(self) -> str | None:
        """The same; None if the store was never used."""
        try:
            said = await self.read(NAME, start=0, end=16)
        except FileGone:
            return None
        if not re.fullmatch(rb"[0-9a-f]{16}", said):
            raise FileStoreUnavailable(f"the object {NAME} of the file store is not ours")
        return said.decode("ascii")

    async def belongs_to(self, epoch: int) -> bool:
        """Whether the records of its objects are in the Redis with that epoch: the one whose
        programs asked first. Of another's objects nobody knows which may be removed."""
        mine = b"%020d" % epoch
        await self.put_new(OWNER, mine)
        return await self.read(OWNER, start=0, end=len(mine)) == mine

    def warning(self, others: Sequence[str]) -> str | None:
        """What will not work, if programs of the cluster use `others` as well."""
        if not others:
            return None
        kind = "a folder of this machine" if self.is_local else "a file store"
        return (
            f"files are in {kind} ({self.place}) that other programs of the cluster do not use: "
            "files that were uploaded there cannot be read here, nor the other way round. Set "
            "AGCLUSTER_FILE_STORE to one store for all"
        )


class _Source:
    """The chunks as the store asks for them, with a way to end them early."""

    def __init__(self, chunks: Chunks) -> None:
        self._chunks = aiter(chunks)
        self._is_broken_off = False
        self._asked: asyncio.Task[object] | None = None
        self.failure: BaseException | None = None
        """Why there are no more chunks, if not because they were complete."""

    def __aiter__(self) -> _Source:
        return self

    async def __anext__(self) -> bytes:
        if self._is_broken_off:
            raise BrokenPipeError("broken off")
        self._asked = asyncio.current_task()
        try:
            return await anext(self._chunks)
        except StopAsyncIteration:
            raise
        except asyncio.CancelledError:
            raise BrokenPipeError("broken off") from None
        except Exception as error:
            self.failure = error
            raise
        finally:
            self._asked = None

    def break_off(self) -> None:
        self._is_broken_off = True
        if self._asked is not None:
            self._asked.cancel()


async def _bounded(call: Awaitable[T]) -> T:
    async with asyncio.timeout(CALL_TIMEOUT_S):
        return await call


def _unavailable(what: str, error: Exception) -> FileStoreUnavailable:
    first_line = next(iter(str(error).splitlines()), "")
    return FileStoreUnavailable(f"{what}: {foreign(first_line or repr(error), max_chars=300)}")
