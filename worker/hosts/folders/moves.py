"""Moves the files of a conversation into the folder of a container that already runs.

A container has its folder mounted and follows it when it is renamed, but it cannot be given another
one. So the files change folders, each by a rename within the file system: nothing is copied.
Nothing in the folders is trusted or followed.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from itertools import islice

from worker.hosts.folders.trees import open_folder

ENTRIES_MAX = 10_000
"""A folder with more entries directly in it is not moved: a container's start is faster then."""


class TooManyEntries(OSError):
    """There are too many files to move them one by one."""


class NotMovedBack(OSError):
    """Some files are in one folder and some in the other."""


def move_entries(source: str, target: str, *, above: int) -> None:
    """Move everything in the folder `source` to the folder `target`, both in the open folder
    `above`. Blocking.

    Raises `TooManyEntries` before anything is moved, `OSError` after everything was moved back, and
    `NotMovedBack` if that failed too. Can be repeated after a crash.
    """
    with _opened(source, above) as from_fd, _opened(target, above) as to_fd:
        names, moved = _names(from_fd), list[str]()
        try:
            for name in names:
                _move(name, from_fd, to_fd)
                moved.append(name)
        except OSError:
            _move_back(moved, to_fd, from_fd)
            raise


def refuse_too_many(source: str, *, above: int) -> None:
    """Raises `TooManyEntries` if that is what `move_entries` would do. Blocking."""
    with _opened(source, above) as from_fd:
        _names(from_fd)


def _names(folder: int) -> Sequence[str]:
    with os.scandir(folder) as entries:
        names = [entry.name for entry in islice(entries, ENTRIES_MAX + 1)]
    if len(names) > ENTRIES_MAX:
        raise TooManyEntries(f"more than {ENTRIES_MAX} entries")
    return names


def _move_back(names: Sequence[str], from_fd: int, to_fd: int) -> None:
    try:
        for name in names:
            _move(name, from_fd, to_fd)
    except OSError as error:
        raise NotMovedBack(f"{name} could not be moved back: {error}") from error


def _move(name: str, from_fd: int, to_fd: int) -> None:
    """Move one entry. A folder that was closed to us is opened for it, because moving changes
    it."""
    with contextlib.suppress(PermissionError):
        return os.rename(name, name, src_dir_fd=from_fd, dst_dir_fd=to_fd)
    if not stat.S_ISDIR(os.stat(name, dir_fd=from_fd, follow_symlinks=False).st_mode):
        raise PermissionError(name)
    fd, closed_as = open_folder(name, from_fd, to_change=True)
    try:
        os.rename(name, name, src_dir_fd=from_fd, dst_dir_fd=to_fd)
    finally:
        if closed_as is not None:
            os.fchmod(fd, closed_as)
        os.close(fd)


@contextlib.contextmanager
def _opened(name: str, above: int) -> Iterator[int]:
    fd, _ = open_folder(name, above, to_change=True)
    try:
        yield fd
    finally:
        os.close(fd)
