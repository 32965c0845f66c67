"""Files that are in no folder any more and take room all the same: unlinked, and still open.

Asked of the kernel from outside, where nothing in a container can lie about it. Seen is what a
process holds open as a descriptor. Not seen is what it has only mapped, what is under way in a
socket, and, for a worker that is not root, processes that forbid every look (docs/adr/0029).
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

UNLINKED_MAX_S = 2.0
"""A look that takes longer gives up: hundreds of processes with thousands of open files each."""
TOO_LONG_BYTES = 2**55
"""What is added then, as for a tree that cannot be measured in time."""


def unlinked_bytes(
    init: int, folder: Path, *, timeout_s: float = UNLINKED_MAX_S, proc: Path = Path("/proc")
) -> int:
    """Bytes on disk of the unlinked files on that folder's file system which the process `init` or
    one below it holds open, each file once. Blocking, at most that long.

    0 where there is no such process or it cannot be looked at.
    """
    give_up_s = time.monotonic() + timeout_s
    try:
        device = os.stat(folder, follow_symlinks=False).st_dev
    except OSError:
        return 0
    found: dict[int, int] = {}
    for pid in _below(init, proc):
        for file in _open_files(proc / str(pid) / "fd"):
            # Its directories and its pipes are nobody's disk; a tmpfs counts as memory.
            if file.st_dev == device and file.st_nlink == 0 and stat.S_ISREG(file.st_mode):
                found[file.st_ino] = file.st_blocks * 512
            if time.monotonic() > give_up_s:
                return sum(found.values()) + TOO_LONG_BYTES
    return sum(found.values())


def _below(init: int, proc: Path) -> Iterator[int]:
    """It and all that it, or one below it, has started. Orphans become the init's."""
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
