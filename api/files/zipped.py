"""All files of a conversation as one zip, made while it is sent."""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

from stream_zip import ZIP_AUTO, Method, stream_zip

from api.files.answer import PiecesAnswer, Reader, attachment
from api.files.made_files import KeptFile

_MODE = 0o100644
_LEVEL = 1
"""Of compression: a little, because it takes the CPU of a replica."""
THREADS = 2
"""That zips have in a process, for all of them. One is held while the file store reads."""
_Member = tuple[str, datetime, int, Method, AsyncIterator[bytes]]
_SyncMember = tuple[str, datetime, int, Method, Iterator[bytes]]
T = TypeVar("T")
_THREADS = ThreadPoolExecutor(THREADS, thread_name_prefix="zip")
_UNSAFE = re.compile(r'[\x00-\x1f\x7f\\:*?"<>|]')
"""What no file name may have on one system or another."""


class ZipAnswer(PiecesAnswer):
    """Sends the files one after the other. If one is deleted meanwhile, the zip ends in the
    middle."""

    def __init__(
        self, files: Sequence[tuple[KeptFile, Reader]], *, name: str, send_timeout_s: float
    ) -> None:
        self._files = files
        super().__init__(
            name=name,
            headers={
                "content-type": "application/zip",
                "content-disposition": attachment(f"{name}.zip"),
            },
            send_timeout_s=send_timeout_s,
        )

    def pieces(self) -> AsyncIterator[bytes]:
        """See `PiecesAnswer`."""
        return _Zipping().pieces(self._members())

    async def _members(self) -> AsyncIterator[_Member]:
        names = _Names()
        for kept, read in self._files:
            size = kept.record.bytes
            made = datetime.fromtimestamp(kept.record.created_ms / 1000, UTC)
            yield names.of(kept.path), made, _MODE, ZIP_AUTO(size, level=_LEVEL), read(0, size)


class _Zipping:
    """Makes one zip in threads of zips, so that a slow file store holds up nothing but zips."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._reading: Future[Any] | None = None
        self._over = threading.Event()

    async def pieces(self, members: AsyncIterator[_Member]) -> AsyncIterator[bytes]:
        made = iter(stream_zip(self._sync(member) for member in self._awaited(members)))
        while piece := await self._in_thread(made):
            yield piece

    async def _in_thread(self, made: Iterator[bytes]) -> bytes:
        step = partial(next, made, b"")
        try:
            return await self._loop.run_in_executor(_THREADS, step)
        except asyncio.CancelledError:
            # The thread is not left to wait for a store that nobody waits for.
            self._over.set()
            if self._reading is not None:
                self._reading.cancel()
            raise

    def _sync(self, member: _Member) -> _SyncMember:
        name, made, mode, method, content = member
        return name, made, mode, method, self._awaited(content)

    def _awaited(self, source: AsyncIterator[T]) -> Iterator[T]:
        """What comes from the event loop, in a thread."""

        async def get_next() -> T:
            return await anext(source)

        while not self._over.is_set():
            reading = self._reading = asyncio.run_coroutine_threadsafe(get_next(), self._loop)
            if self._over.is_set():
                reading.cancel()
            try:
                yield reading.result()
            except StopAsyncIteration:
                return


class _Names:
    """Names in one zip: those that would be equal are numbered."""

    def __init__(self) -> None:
        self._taken = set[str]()
        self._numbers = dict[str, int]()

    def of(self, path: str) -> str:
        name = wanted = zip_path(path)
        stem, end = os.path.splitext(wanted)
        while name in self._taken:
            number = self._numbers[wanted] = self._numbers.get(wanted, 1) + 1
            name = f"{stem} ({number}){end}"
        self._taken.add(name)
        return name


def zip_path(path: str) -> str:
    """A path that unpacks below the folder it is unpacked in, on any system."""
    parts = [_UNSAFE.sub("_", part).rstrip(" .") or "_" for part in path.split("/") if part]
    return "/".join(parts) or "_"
