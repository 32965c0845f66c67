"""What a host remembers of each conversation's folders: for whom they are now, and since when.

One small file per conversation in `<data_dir>/f/`, where no agent's mount reaches: the fence of the
owner that had the folders last, and (as the file's own time) when they were last used. An agent can
change the times and the contents of its folders; it cannot change this.

Whoever makes, takes over or removes folders holds the record's lock for these few calls and looks
at the fence first. So an owner that was frozen in the middle of its work, and has a successor by
now, finds a newer fence and leaves everything as it is. The lock is the kernel's: it ends with the
process that holds it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

from infra.wire.errors import LeaseLost
from infra.wire.ids import ConversationKey, Fence

LOCK_S = 5.0
_LOCK_POLL_S = 0.01
_DIGITS = 20


class RecordBusy(OSError):
    """Another process holds the record's lock: it is stopped in the middle of a few calls."""


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
        """The record, made if need be, under its lock. Raises `RecordBusy` and other `OSError`."""
        fd = self._locked(c, time.monotonic() + timeout_s)
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

    def _locked(self, c: ConversationKey, give_up_s: float) -> int:
        while True:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(c, flags, 0o600, dir_fd=self._folder)
            try:
                self._lock(fd, c, give_up_s)
                if self._is_in_place(fd, c):
                    return fd
            except BaseException:
                os.close(fd)
                raise
            # Forgotten by another process while we waited for it.
            os.close(fd)

    def _lock(self, fd: int, c: ConversationKey, give_up_s: float) -> None:
        while True:
            try:
                return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                # flock has no deadline of its own, hence a poll.
                if time.monotonic() > give_up_s:
                    raise RecordBusy(f"the folders of {c} are held by another process") from None
                time.sleep(_LOCK_POLL_S)

    def _is_in_place(self, fd: int, c: ConversationKey) -> bool:
        try:
            found = os.stat(c, dir_fd=self._folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(found, os.fstat(fd))


def _fence_of(fd: int) -> Fence:
    """0 for a record that was made and never written."""
    written = os.pread(fd, _DIGITS, 0)
    return Fence(int(written)) if written.isdigit() else Fence(0)
