"""Walks and removes folders that an agent has filled, using descriptors only.

An agent may change its tree at any moment, and swap a folder for a link between two of our calls.
So no path of more than one component is ever resolved: each folder is opened from the one above it,
without following links, and stays open while we look at it. Whatever is swapped meanwhile, we are
still in the folder that we opened, and that folder is the agent's.

A worker that runs as root gives up root's rights over files while it removes: it then has those of
the tree's owner, so that no bug here can reach a file that the agent could not reach itself.

Used by `worker.hosts.folders.folders` (removal) and `worker.hosts.folders.workspace` (size). It
knows nothing of conversations.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import platform
import secrets
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass

HELD_MAX = 64
"""Folders held open at once. A deeper one is moved to the top before it is emptied."""
REMOVE_MAX_S = 600.0
"""An agent that still runs could add files without end."""
_FOLDER = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_ID = -1
"""Not an id: leaves it unchanged."""
_LOOK, _CHANGE = 0o500, 0o700
_SETGROUPS = {"x86_64": 116, "aarch64": 159}
"""The kernel's number of that call, by machine."""
_MOVED = f".{secrets.token_hex(8)}-"
"""Unguessable, so that no file of the agent has such a name."""


@dataclass
class Level:
    """An open folder and the position in it. `closed_as`: the mode that it gets back at the end."""

    fd: int
    name: str
    _entries: os._ScandirIterator[str]
    _closed_as: int | None = None

    @classmethod
    def open(cls, name: str, above: int | None) -> Level:
        """Open a folder to read it. One that was closed to us is opened until `close`."""
        fd, closed_as = open_folder(name, above)
        return cls._on(fd, name, closed_as)

    @classmethod
    def _on(cls, fd: int, name: str, closed_as: int | None = None) -> Level:
        try:
            return cls(fd, name, os.scandir(fd), closed_as)
        except OSError:
            os.close(fd)
            raise

    def next(self) -> os.DirEntry[str] | None:
        """The next entry; None at the end."""
        try:
            return next(self._entries, None)
        except OSError:
            return None

    def close(self) -> None:
        """Close it."""
        self._entries.close()
        if self._closed_as is not None:
            with contextlib.suppress(OSError):
                os.fchmod(self.fd, self._closed_as)
        os.close(self.fd)


def open_folder(name: str, above: int | None, *, to_change: bool = False) -> tuple[int, int | None]:
    """Open the folder `name` in the open folder `above`, never through a link.

    Also opens a folder whose read (or write) permission was removed, if we own it; then its former
    mode is returned too. Raises `OSError`.
    """
    wanted = _CHANGE if to_change else _LOOK
    with contextlib.suppress(PermissionError):
        fd = os.open(name, os.O_RDONLY | _FOLDER, dir_fd=above)
        mode = stat.S_IMODE(os.fstat(fd).st_mode)
        if mode & wanted == wanted or (os.geteuid() == 0 and not to_change):
            return fd, None
        try:
            os.fchmod(fd, mode | wanted)
        except PermissionError:
            # Owned by another user, but open to us: as root, or to everybody.
            return fd, None
        except OSError:
            os.close(fd)
            raise
        return fd, mode
    if not hasattr(os, "O_PATH"):  # pragma: no cover - not Linux
        raise PermissionError(name)
    handle = os.open(name, os.O_PATH | _FOLDER, dir_fd=above)
    try:
        place, mode = f"/proc/self/fd/{handle}", stat.S_IMODE(os.fstat(handle).st_mode)
        os.chmod(place, mode | wanted)
        return os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), mode
    finally:
        os.close(handle)


def remove_tree(name: str, above: int, *, timeout_s: float = REMOVE_MAX_S) -> bool:
    """Remove `name` in the open folder `above`; False if something of it is left.

    Blocking, for about that long at most. What cannot be removed stays. Other file systems mounted
    in the tree are not entered.
    """
    try:
        if not stat.S_ISDIR(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=above)
            return True
        top, _ = open_folder(name, above, to_change=True)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        with rights_of_the_owner(top):
            _empty(top, give_up_s=time.monotonic() + timeout_s)
    except PermissionError:
        return False
    finally:
        os.close(top)
    with contextlib.suppress(OSError):
        os.rmdir(name, dir_fd=above)
        return True
    return False


def _empty(top: int, *, give_up_s: float) -> None:
    """Repeat until nothing more can be removed: a folder may change while it is read."""
    device, numbers = os.fstat(top).st_dev, itertools.count()
    while _pass(top, device, numbers, give_up_s=give_up_s):
        pass


def _pass(top: int, device: int, numbers: Iterator[int], *, give_up_s: float) -> int:
    """Remove its contents, in one pass. Returns how much was removed."""
    gone = 0
    levels = [Level._on(os.dup(top), "")]
    try:
        while levels and time.monotonic() < give_up_s:
            level = levels[-1]
            if (entry := level.next()) is None:
                levels.pop().close()
                with contextlib.suppress(OSError):
                    if levels:
                        os.rmdir(level.name, dir_fd=levels[-1].fd)
                        gone += 1
                continue
            with contextlib.suppress(OSError):
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.name, dir_fd=level.fd)
                    gone += 1
                elif len(levels) < HELD_MAX:
                    levels.append(_opened(entry.name, level.fd, device))
                else:
                    moved = f"{_MOVED}{next(numbers)}"
                    os.rename(entry.name, moved, src_dir_fd=level.fd, dst_dir_fd=top)
                    gone += 1
    finally:
        for level in levels:
            level.close()
    return gone


def _opened(name: str, above: int, device: int) -> Level:
    fd, _ = open_folder(name, above, to_change=True)
    if os.fstat(fd).st_dev != device:
        os.close(fd)
        raise OSError(f"{name} is another file system")
    return Level._on(fd, name)


@contextlib.contextmanager
def rights_of_the_owner(folder: int) -> Iterator[None]:
    """Meanwhile root's thread has only the folder owner's rights over files.

    The kernel keeps these ids per thread, and takes the file capabilities away with them.
    """
    owner = os.fstat(folder)
    if os.geteuid() != 0 or owner.st_uid == 0 or not hasattr(os, "O_PATH"):
        yield
        return
    libc = ctypes.CDLL(None)
    with _without_groups(libc):
        libc.setfsgid(owner.st_gid)
        libc.setfsuid(owner.st_uid)
        try:
            # The call returns the previous value and no error; a second call returns the current
            # one.
            if libc.setfsuid(_NO_ID) & 0xFFFFFFFF != owner.st_uid:
                raise PermissionError("the rights of the tree's owner cannot be taken on")
            yield
        finally:
            libc.setfsuid(0)
            libc.setfsgid(0)


@contextlib.contextmanager
def _without_groups(libc: ctypes.CDLL) -> Iterator[None]:
    """Meanwhile the thread is in no group but its own: root's groups may have rights that the owner
    of the tree does not have."""
    if not (groups := os.getgroups()):
        yield
        return
    _set_groups(libc, [])
    try:
        yield
    finally:
        _set_groups(libc, groups)


def _set_groups(libc: ctypes.CDLL, groups: list[int]) -> None:
    """Of this thread. Raises `PermissionError`."""
    # The C library's call would change them for every thread of the process.
    number = _SETGROUPS.get(platform.machine())
    listed = (ctypes.c_uint32 * len(groups))(*groups)
    if number is None or libc.syscall(number, ctypes.c_size_t(len(groups)), listed) != 0:
        raise PermissionError("groups of root's cannot be put away")
