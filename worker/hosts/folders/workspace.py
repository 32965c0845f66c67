"""Limits the size of a conversation's workspace, without help from the file system.

Measuring means walking a tree, so it happens every few seconds, and at once if the file system has
lost half of its remaining space; checking that costs one call. A writer at full speed exceeds its
limit by what it writes in a quarter of a second and until it is dead. The kernel limits each single
file (`Limits.file_mb`). A file that is unlinked but still open is in no folder;
`worker.hosts.unlinked` finds it. If you need a hard limit, give the data directory a file system
with quotas.
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
"""What a fast disk can write in the second until a writer is dead."""
ENTRY_BYTES = 1024
"""The minimum a file counts: empty files use up the file system too."""
DEPTH_MAX = 200
TOO_DEEP_BYTES = 2**50
SOCKETS_BYTES = 64 * 1024
"""More than a session's sockets and their names ever take. They come and go, and do not count."""
QUICK_MAX_S, MEASURE_MAX_S, LAST_LOOK_MAX_S = 2.0, 10.0, 60.0
"""A measurement that takes longer gives up, for a tree of millions of files. The last one is made
when the writer is dead."""
TOO_LONG_BYTES = 2**55
"""Added in that case, because many small files may hide any number of large ones."""
QUICK_PLACES, SLOW_PLACES = 2, 1


class WorkspaceGauge:
    """Measures workspaces, a few at a time, because walking a large tree takes a thread and the
    disk.

    Slow ones wait for each other in a lane of their own, and do not delay their neighbours.
    """

    def __init__(
        self,
        measure: Callable[[Path, Path, float], int] | None = None,
        *,
        quick_s: float = QUICK_MAX_S,
    ) -> None:
        self._measure = measure or _measured
        self._quick_s = quick_s
        self._quick = asyncio.Semaphore(QUICK_PLACES)
        self._slow = asyncio.Semaphore(SLOW_PLACES)
        self._were_slow = set[Path]()

    async def measure(
        self, workspace: Path, sockets: Path, *, patience_s: float = MEASURE_MAX_S
    ) -> int:
        """Its bytes on disk, including what an agent has put beside its sockets."""
        if workspace not in self._were_slow:
            async with self._quick:
                size_bytes = await asyncio.to_thread(
                    self._measure, workspace, sockets, self._quick_s
                )
            if size_bytes < TOO_LONG_BYTES:
                return size_bytes
            self._were_slow.add(workspace)
        async with self._slow:
            began_s = time.monotonic()
            size_bytes = await asyncio.to_thread(self._measure, workspace, sockets, patience_s)
            if time.monotonic() - began_s < self._quick_s:
                self._were_slow.discard(workspace)
            return size_bytes


class WorkspaceWatch:
    """One conversation's limit. Beyond it, its agent may still clean up, but not write more."""

    def __init__(self, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._floor_bytes: int | None = None
        self._is_known = False
        self._size_bytes = 0

    def limit(self, max_bytes: int) -> None:
        """From now on this much is allowed. What is there already is no reason to end a turn, but
        more of it is."""
        if max_bytes != self._max_bytes:
            self._max_bytes = max_bytes
            self._floor_bytes = self._size_bytes if self._size_bytes > max_bytes else None

    def judge(self, size_bytes: int, *, is_running: bool) -> bool:
        """Whether the running turn has to end: it exceeded the limit, or grew beyond it further."""
        was_known, self._is_known = self._is_known, True
        self._size_bytes = size_bytes
        if size_bytes >= TOO_LONG_BYTES:
            # Nobody knows whether it grew. There is time to clean up until the next measurement.
            return was_known and is_running
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

    def is_over(self, size_bytes: int) -> bool:
        """Whether it is beyond the limit."""
        return size_bytes > self._max_bytes

    def settle(self, size_bytes: int) -> None:
        """Nobody can write any longer: what the writer added until it was dead becomes the new
        baseline."""
        if self._floor_bytes is not None and size_bytes < TOO_LONG_BYTES:
            self._floor_bytes = size_bytes

    def is_abuse(self, size_bytes: int) -> bool:
        """Whether no honest writer could have come that far before it was ended.

        Preallocation (`fallocate`) takes a disk in an instant, and the space stays with the
        conversation, so its files are deleted to protect the host. Only measured sizes count: a
        slow disk makes nobody an abuser.
        """
        return size_bytes % TOO_LONG_BYTES > ABUSE_FACTOR * self._max_bytes + ABUSE_BYTES

    def room_after(self, size_bytes: int) -> float:
        """How much may be written before another measurement is worthwhile."""
        return max(self._max_bytes - size_bytes, self._max_bytes / 8)


class WorkspacePace:
    """When to measure a workspace again."""

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
        """Wait until it is time, or until half of that space is gone from its file system."""
        began_s, before = self._clock.monotonic(), self._free(workspace)
        while (left_s := began_s + self._every_s - self._clock.monotonic()) > 0:
            await self._clock.sleep(min(self._glance_s, left_s))
            now = self._free(workspace)
            if is_used() and before - now > room_bytes / 2:
                return
            # An idle agent did not cause what its disk loses.
            before = max(before, now) if is_used() else now


def free_on(folder: Path) -> int:
    """Free bytes of its file system; 0 if unknown."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return 0
    return found.f_bfree * found.f_frsize


def size_of(folder: Path, *, timeout_s: float = MEASURE_MAX_S) -> int:
    """Bytes on disk of everything below, without following links. Blocking, for that long at most.

    The agent works on the tree meanwhile and may want to hide something. Every folder is opened
    from the one above it, so nothing can be swapped for a link, no path gets too long, and a folder
    that was closed to us is opened. Folders deeper than any honest file count as too much, and so
    does a tree that takes too long.
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
            # It is gone because the agent removed it, or nobody can open it.
            with contextlib.suppress(OSError):
                found = entry.stat(follow_symlinks=False)
                total += max(found.st_blocks * 512, ENTRY_BYTES)
                if stat.S_ISDIR(found.st_mode):
                    if len(levels) >= DEPTH_MAX:
                        return total + TOO_DEEP_BYTES
                    levels.append(Level.open(entry.name, levels[-1].fd))
    return total + TOO_LONG_BYTES if levels else total


def _measured(workspace: Path, sockets: Path, timeout_s: float) -> int:
    beside = size_of(sockets, timeout_s=timeout_s)
    return size_of(workspace, timeout_s=timeout_s) + (beside if beside > SOCKETS_BYTES else 0)


def _close(levels: list[Level]) -> None:
    for level in levels:
        level.close()
