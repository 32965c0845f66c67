"""How large a conversation's workspace may grow, without the help of the file system.

Measuring means walking a tree, so it is done every few seconds, and at once when the file system
under it has lost half of the room that is left: asking that costs one call. What a writer at full
speed gets beyond its limit is what it writes in such a quarter of a second and until it is dead;
the kernel bounds each single file at the limit (`Limits.file_mb`). Where a wall is needed, give
the data directory a file system with quotas: a file that was unlinked and is still open is in no
folder and is not seen here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

from infra.runtime.clock import Clock
from worker.hosts.folders.trees import Level

ABUSE_FACTOR = 2
ABUSE_BYTES = 2 * 1024**3
"""What a fast disk takes in the second until a writer is dead."""
ENTRY_BYTES = 1024
"""What a file takes at least: empty ones use up the file system too."""
DEPTH_MAX = 200
TOO_DEEP_BYTES = 2**50
SOCKETS_BYTES = 64 * 1024
"""More than the sockets of a session and their names ever take: they come and go, and are free."""
MEASURE_MAX_S = 10.0
"""A look that takes longer counts what it has seen: a tree of millions of files."""


class WorkspaceGauge:
    """Measures workspaces, one at a time: walking a large tree takes a thread and the disk."""

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(1)

    async def measure(self, workspace: Path, sockets: Path) -> int:
        """The bytes it takes on disk, with what an agent has put beside its sockets."""
        async with self._turn:
            return await asyncio.to_thread(lambda: size_of(workspace) + _beside(sockets))


class WorkspaceWatch:
    """One conversation's limit. Who finds it passed may still clean up, but not write more."""

    def __init__(self, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._floor_bytes: int | None = None
        self._is_known = False

    def judge(self, size_bytes: int, *, is_running: bool) -> bool:
        """Whether the running turn has to end: it passed the limit, or grew what was beyond it."""
        was_known, self._is_known = self._is_known, True
        if size_bytes <= self._max_bytes:
            self._floor_bytes = None
            return False
        if self._floor_bytes is None:
            self._floor_bytes = size_bytes
            return was_known and is_running
        if size_bytes > self._floor_bytes:
            return is_running
        self._floor_bytes = size_bytes
        return False

    def settle(self, size_bytes: int) -> None:
        """Nobody can write any more: what its writer added until it was dead counts as found."""
        if self._floor_bytes is not None:
            self._floor_bytes = size_bytes

    def is_abuse(self, size_bytes: int) -> bool:
        """Whether no honest writer came that far before it was ended.

        Reserving (`fallocate`) takes a disk in an instant, and what was taken stays with the
        conversation: its files are then given up for the host's sake.
        """
        return size_bytes > ABUSE_FACTOR * self._max_bytes + ABUSE_BYTES

    def room_after(self, size_bytes: int) -> float:
        """How much may be written before it is worth another look."""
        return max(self._max_bytes - size_bytes, self._max_bytes / 8)


class WorkspacePace:
    """When a workspace is worth another look."""

    def __init__(
        self,
        clock: Clock,
        *,
        every_s: float,
        glance_s: float,
        free: Callable[[Path], int] | None = None,
    ) -> None:
        self._clock = clock
        self._every_s = every_s
        self._glance_s = glance_s
        self._free = free or free_on

    async def wait(
        self, workspace: Path, *, room_bytes: float, is_used: Callable[[], bool]
    ) -> None:
        """Until the time has come, or somebody took half of that room from its file system."""
        began_s, before = self._clock.monotonic(), self._free(workspace)
        while (left_s := began_s + self._every_s - self._clock.monotonic()) > 0:
            await self._clock.sleep(min(self._glance_s, left_s))
            now = self._free(workspace)
            if is_used() and before - now > room_bytes / 2:
                return
            # What an idle agent's disk loses is not its doing.
            before = max(before, now) if is_used() else now


def free_on(folder: Path) -> int:
    """Free bytes of the file system it lies on; 0 when that cannot be told."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return 0
    return found.f_bfree * found.f_frsize


def size_of(folder: Path, *, timeout_s: float = MEASURE_MAX_S) -> int:
    """Bytes on disk of everything below, links not followed. Blocking, at most that long.

    An agent works on the tree meanwhile and may wish to hide something: every folder is opened from
    the one above it, so nothing can be swapped for a link, no path gets too long, and a folder that
    was closed to us is opened. What lies deeper than any honest file counts as too much.
    """
    give_up_s = time.monotonic() + timeout_s
    total = 0
    with contextlib.ExitStack() as opened:
        try:
            levels = [Level.open(os.fspath(folder), None)]
        except OSError:
            return 0
        opened.callback(_close, levels)
        while levels and time.monotonic() < give_up_s:
            entry = levels[-1].next()
            if entry is None:
                levels.pop().close()
                continue
            # Gone, while the agent works on it, or it cannot be opened by anybody.
            with contextlib.suppress(OSError):
                found = entry.stat(follow_symlinks=False)
                total += max(found.st_blocks * 512, ENTRY_BYTES)
                if stat.S_ISDIR(found.st_mode):
                    if len(levels) >= DEPTH_MAX:
                        return total + TOO_DEEP_BYTES
                    levels.append(Level.open(entry.name, levels[-1].fd))
    return total


def _beside(sockets: Path) -> int:
    size_bytes = size_of(sockets)
    return size_bytes if size_bytes > SOCKETS_BYTES else 0


def _close(levels: list[Level]) -> None:
    for level in levels:
        level.close()
