"""Locks on our own files, held for a few calls, with a bounded wait.

The kernel releases a lock when its process ends. A process that is stopped meanwhile keeps its
lock, so each lock covers one conversation only.
"""

from __future__ import annotations

import fcntl
import os
import time

_POLL_S = 0.01


class LockBusy(OSError):
    """Another process holds it."""


def lock_file(folder: int, name: str, *, timeout_s: float) -> int:
    """The open and locked file `name` in the open folder, created if necessary. Closing it unlocks
    it.

    The holder may unlink it. Blocking. Raises `LockBusy` if it takes too long, and `OSError`.
    """
    give_up_s = time.monotonic() + timeout_s
    while True:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=folder)
        try:
            _lock(fd, name, give_up_s)
            if _is_in_place(fd, folder, name):
                return fd
        except BaseException:
            os.close(fd)
            raise
        # Another process unlinked it while we waited.
        os.close(fd)


def _lock(fd: int, name: str, give_up_s: float) -> None:
    while True:
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # flock has no timeout, so this polls.
            if time.monotonic() > give_up_s:
                raise LockBusy(f"another process holds {name}") from None
            time.sleep(_POLL_S)


def _is_in_place(fd: int, folder: int, name: str) -> bool:
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(fd))
