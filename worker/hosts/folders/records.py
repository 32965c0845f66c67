"""What a host records about each conversation's folders: their owner's fence and last use.

One small file per conversation in `<data_dir>/f/`, which no agent can reach: it has the fence of
the last owner and, as the file's own time, the time of the last use. An agent can change the times
and contents of its folders, but not this record.

A worker that creates, takes over or removes folders holds the record's lock for these few calls and
checks the fence first. An owner that was frozen in the middle of its work, and has a successor now,
finds a newer fence and changes nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

from infra.wire.errors import LeaseLost
from infra.wire.ids import ConversationKey, Fence
from worker.hosts.folders.locks import lock_file

LOCK_S = 5.0
_DIGITS = 20


@dataclass(frozen=True)
class FolderRecord:
    """`fence` is that of the last owner; `used_s` is when the folders were last used (Unix
    time)."""

    fence: Fence
    used_s: float


class HeldRecord:
    """A record that we have locked."""

    def __init__(self, folder: int, c: ConversationKey, fd: int) -> None:
        self._folder = folder
        self._c = c
        self._fd = fd

    def refuse_if_newer(self, fence: Fence) -> None:
        """Raises `LeaseLost` if a newer owner has had the folders."""
        if _fence_of(self._fd) > fence:
            raise LeaseLost(self._c, fence)

    def take(self, fence: Fence) -> None:
        """Record this owner from now on."""
        self.refuse_if_newer(fence)
        os.pwrite(self._fd, f"{fence:0{_DIGITS}d}\n".encode(), 0)
        os.utime(self._fd)

    def forget(self) -> None:
        """Remove the record."""
        os.unlink(self._c, dir_fd=self._folder)


class FolderRecords:
    """The records of one data folder; `folder` is an open descriptor that the caller owns."""

    def __init__(self, folder: int) -> None:
        self._folder = folder

    @contextlib.contextmanager
    def held(self, c: ConversationKey, *, timeout_s: float = LOCK_S) -> Iterator[HeldRecord]:
        """The locked record, created if necessary. Raises `LockBusy` and other `OSError`s."""
        fd = lock_file(self._folder, c, timeout_s=timeout_s)
        try:
            yield HeldRecord(self._folder, c, fd)
        finally:
            os.close(fd)

    def of(self, c: ConversationKey) -> FolderRecord | None:
        """The record, or None."""
        try:
            fd = os.open(c, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._folder)
        except FileNotFoundError:
            return None
        try:
            return FolderRecord(_fence_of(fd), os.fstat(fd).st_mtime)
        finally:
            os.close(fd)

    def touch(self, c: ConversationKey) -> None:
        """Record that they are in use; does nothing if there is no record."""
        with contextlib.suppress(FileNotFoundError):
            os.utime(c, dir_fd=self._folder, follow_symlinks=False)

    def all(self) -> list[str]:
        """Names of all records."""
        with os.scandir(self._folder) as entries:
            return [entry.name for entry in entries]


def _fence_of(fd: int) -> Fence:
    """0 for a record that was created but never written."""
    written = os.pread(fd, _DIGITS, 0)
    return Fence(int(written)) if written.isdigit() else Fence(0)
