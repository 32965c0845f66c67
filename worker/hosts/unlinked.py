"""Finds files that are in no folder but still take space: unlinked, but still open.

The kernel is asked from outside, where nothing in a container can falsify the answer. Found are
files that a process holds open as a descriptor. Not found are files that are only mapped, files in
transit in a socket and, for a worker that is not root, those of processes that cannot be inspected
(docs/adr/0029).
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

UNLINKED_MAX_S = 2.0
"""A search that takes longer gives up: hundreds of processes with thousands of open files each."""
TOO_LONG_BYTES = 2**55
"""Added in that case, as for a tree that cannot be measured in time."""


def unlinked_bytes(
    init: int, folder: Path, *, timeout_s: float = UNLINKED_MAX_S, proc: Path = Path("/proc")
) -> int:
    """Bytes on disk of the unlinked files on that folder's file system that the process `init` or a
    descendant holds open, each file counted once. Blocking, for that long at most.

    0 if there is no such process, or it cannot be inspected.
    """
    give_up_s = time.monotonic() + timeout_s
    try:
        device = os.stat(folder, follow_symlinks=False).st_dev
    except OSError:
        return 0
    found: dict[int, int] = {}
    for pid in _below(init, proc):
        for file in _open_files(proc / str(pid) / "fd"):
            # Directories and pipes take no disk space; a tmpfs counts as memory.
            if file.st_dev == device and file.st_nlink == 0 and stat.S_ISREG(file.st_mode):
                found[file.st_ino] = file.st_blocks * 512
            if time.monotonic() > give_up_s:
                return sum(found.values()) + TOO_LONG_BYTES
    return sum(found.values())


def _below(init: int, proc: Path) -> Iterator[int]:
    """The process and all its descendants. Orphans become children of the init."""
    waiting, seen = [init], {init}
    while waiting:
        pid = waiting.pop()
        yield pid
        for child in _children(proc / str(pid)):
            if child not in seen:
                seen.add(child)
                waiting.append(child)


def _children(process: Path) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in (process / "task").iterdir():
            with contextlib.suppress(OSError):
                found += map(int, (thread / "children").read_text().split())
    return found


def _open_files(folder: Path) -> Iterator[os.stat_result]:
    try:
        listed = os.scandir(folder)
    except OSError:
        return
    with listed:
        for entry in listed:
            with contextlib.suppress(OSError):
                yield os.stat(entry.path)
