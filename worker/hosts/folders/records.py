"""What a host remembers of each conversation's folders: for whom they are now, and since when.

One small file per conversation in `<data_dir>/f/`, where no agent's mount reaches: the fence of the
owner that had the folders last, and (as the file's own time) when they were last used. An agent can
change the times and the contents of its folders; it cannot change this.

A worker that makes, takes over or removes folders holds the record's lock for these few calls and
looks at the fence first. So an owner that was frozen in the middle of its work, and has a successor
by now, finds a newer fence and leaves everything as it is.
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
    """`fence` is that of the last owner; `used_s` when the folders were last used (Unix time)."""

    fence: Fence
    used_s: float


class HeldRecord:
    """A record whose lock we have."""

    def __init__(self, folder: int, c: ConversationKey, fd: int) -> None:
        self._folder = folder
        self._c = c
        self._fd = fd

    def refuse_if_newer(self, fence: Fence) -> None:
        """Raises `LeaseLost` when a newer owner has had the folders."""
        if _fence_of(self._fd) > fence:
            raise LeaseLost(self._c, fence)

    def take(self, fence: Fence) -> None:
        """They are that owner's from now on."""
        self.refuse_if_newer(fence)
        os.pwrite(self._fd, f"{fence:0{_DIGITS}d}\n".encode(), 0)
        os.utime(self._fd)

    def forget(self) -> None:
        """There is nothing left to remember."""
        os.unlink(self._c, dir_fd=self._folder)


class FolderRecords:
    """The records of one data folder; `folder` is an open descriptor, kept by the caller."""

    def __init__(self, folder: int) -> None:
        self._folder = folder

    @contextlib.contextmanager
    def held(self, c: ConversationKey, *, timeout_s: float = LOCK_S) -> Iterator[HeldRecord]:
        """The record, made if need be, under its lock. Raises `LockBusy` and other `OSError`."""
        fd = lock_file(self._folder, c, timeout_s=timeout_s)
        try:
            yield HeldRecord(self._folder, c, fd)
        finally:
            os.close(fd)

    def of(self, c: ConversationKey) -> FolderRecord | None:
        """What is remembered; None when nothing is."""
        try:
            fd = os.open(c, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._folder)
        except FileNotFoundError:
            return None
        try:
            return FolderRecord(_fence_of(fd), os.fstat(fd).st_mtime)
        finally:
            os.close(fd)

    def touch(self, c: ConversationKey) -> None:
        """They are in use now; no error when nothing is remembered."""
        with contextlib.suppress(FileNotFoundError):
            os.utime(c, dir_fd=self._folder, follow_symlinks=False)

    def all(self) -> list[str]:
        """Names of all records."""
        with os.scandir(self._folder) as entries:
            return [entry.name for entry in entries]


def _fence_of(fd: int) -> Fence:
    """0 for a record that was made and never written."""
    written = os.pread(fd, _DIGITS, 0)
    return Fence(int(written)) if written.isdigit() else Fence(0)
