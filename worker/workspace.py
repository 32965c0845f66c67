"""How large a conversation's workspace may grow, without the help of the file system.

A look every few seconds finds what was written since: a limit for the careless, not a wall. Where a
wall is needed, give the data directory a file system with quotas.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

MEASURE_MAX_S = 10.0
"""A look that takes longer counts what it has seen: a tree of millions of files."""


class WorkspaceGauge:
    """Measures workspaces, one at a time: walking a large tree takes a thread and the disk."""

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(1)

    async def measure(self, workspace: Path) -> int:
        """The bytes it takes on disk."""
        async with self._turn:
            return await asyncio.to_thread(size_of, workspace)


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


def size_of(folder: Path, *, timeout_s: float = MEASURE_MAX_S) -> int:
    """Bytes on disk of everything below, links not followed. Blocking, at most that long."""
    give_up_s = time.monotonic() + timeout_s
    total, folders = 0, [os.fspath(folder)]
    while folders and time.monotonic() < give_up_s:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    try:
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
                        if entry.is_dir(follow_symlinks=False):
                            folders.append(entry.path)
                    except OSError:
                        continue  # Gone, while the agent works on it.
        except OSError:
            continue  # The same, or it took our right to look away.
    return total
