"""Finds what an agent has made or changed in its workspace, and opens it to be read.

A file counts as changed by the time at which its inode last changed (`ctime`): the kernel sets it,
and unlike the time of the last write nobody can set it back, as `tar` and `cp -p` do with that. So
one look at a turn's end is enough, and a turn starts without one.

The agent may still work on the tree, and may have put anything there. Every folder is opened from
the one above it, no link is followed, and only plain files are opened, with no
more rights than it has itself. A look ends after some time, however many files there are.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from dataclasses import dataclass, field
from itertools import chain

from infra.wire.files.names import UPLOADS
from infra.wire.ids import ConversationKey, Fence
from worker.hosts.folders.folders import Folders
from worker.hosts.folders.trees import Level, rights_of_the_owner

OUTPUTS = "outputs"
"""What is there is looked at first."""
LOOK_MAX_S = 3.0
FOUND_MAX = 2000
DEPTH_MAX = 32
_COARSE_CLOCK = 5
"""Linux: by it the kernel stamps files. It moves every few milliseconds."""

_NOISE = frozenset({"node_modules", "__pycache__", "venv", "site-packages", "lost+found"})
_NOISY_ENDS = (".pyc", ".pyo", ".swp", ".tmp", ".part", ".crdownload", "~")
_SIGNS_OF_NOISE = ("pyvenv.cfg", "CACHEDIR.TAG")
"""A folder with one of them is a virtual environment or a cache."""
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class MadeFile:
    """A file that was made or changed. `path` is in the workspace, as the file system has it."""

    path: str
    bytes: int
    inode: int
    changed_ns: int

    @property
    def is_output(self) -> bool:
        """Whether the agent put it where results belong."""
        return self.path.startswith(f"{OUTPUTS}/")


@dataclass
class FoundFiles:
    """What a look has found."""

    files: list[MadeFile] = field(default_factory=list)
    is_whole: bool = True
    """Whether it has seen everything, and not run out of time or room."""


def file_time_ns() -> int:
    """Now, as the kernel would stamp a file (Unix ns)."""
    return time.clock_gettime_ns(_COARSE_CLOCK)


def latest_file_time_ns() -> int:
    """Now, by the clock that no stamp is ahead of (Unix ns): newer kernels may stamp a file finer
    than `file_time_ns` tells."""
    return time.time_ns()


def look(
    folders: Folders,
    c: ConversationKey,
    fence: Fence,
    *,
    since_ns: int,
    sent_until_ns: int,
    timeout_s: float = LOOK_MAX_S,
) -> FoundFiles:
    """The files that were changed since then, by `file_time_ns`. What its callers sent until the
    other time is left aside unless the agent has changed it. Blocking, for about that long at most.

    Raises `LeaseLost` if an owner newer than `fence` has had the workspace, and `OSError`.
    """
    found = FoundFiles()
    with folders.entered(c, fence) as workspace, rights_of_the_owner(workspace):
        walk = _Walk(workspace, found, since_ns, sent_until_ns, time.monotonic() + timeout_s)
        walk.below(OUTPUTS)
        walk.below(".")
    found.files.sort(key=lambda one: (not one.is_output, one.path.count("/"), one.path))
    return found


def open_made(folders: Folders, c: ConversationKey, fence: Fence, file: MadeFile) -> int:
    """Open a file that a look has found. The caller closes it.

    Raises `OSError`, also if it is another one by now, and `LeaseLost`.
    """
    *above, name = file.path.split("/")
    with folders.entered(c, fence) as workspace, rights_of_the_owner(workspace):
        with contextlib.ExitStack() as held:
            folder = workspace
            for one in above:
                folder = os.open(one, _FOLDER, dir_fd=folder)
                held.callback(os.close, folder)
            opened = os.open(name, _FILE, dir_fd=folder)
        found = os.fstat(opened)
        is_same = found.st_ino == file.inode and found.st_dev == os.fstat(workspace).st_dev
        if stat.S_ISREG(found.st_mode) and is_same:
            return opened
    os.close(opened)
    raise OSError(errno.ESTALE, "another file by now")


class _Walk:
    def __init__(
        self,
        workspace: int,
        found: FoundFiles,
        since_ns: int,
        sent_until_ns: int,
        give_up_s: float,
    ) -> None:
        self._workspace = workspace
        self._top = os.fstat(workspace)
        self._found = found
        self._since_ns = since_ns
        self._sent_until_ns = sent_until_ns
        self._give_up_s = give_up_s
        self._inodes = set[int]()
        """Of what was found: a file with several names is kept once."""

    def below(self, name: str) -> None:
        """FoundFiles through a folder of the workspace; `.` for all but the outputs."""
        try:
            levels = [Level.open(name, self._workspace)]
        except OSError:
            return
        try:
            while levels:
                if time.monotonic() > self._give_up_s or len(self._found.files) >= FOUND_MAX:
                    self._found.is_whole = False
                    return
                if (entry := levels[-1].next()) is None:
                    levels.pop().close()
                    continue
                # It is gone by now, or nobody may open it.
                with contextlib.suppress(OSError):
                    self._take(entry, levels)
        finally:
            for level in levels:
                level.close()

    def _take(self, entry: os.DirEntry[str], levels: list[Level]) -> None:
        is_at_top = len(levels) == 1 and levels[0].name == "."
        if _is_noise(entry.name) or (is_at_top and entry.name == OUTPUTS):
            return
        found = entry.stat(follow_symlinks=False)
        if found.st_dev != self._top.st_dev:
            return
        if stat.S_ISDIR(found.st_mode):
            self._enter(entry.name, levels)
        elif stat.S_ISREG(found.st_mode):
            path = "/".join(
                name
                for name in chain((level.name for level in levels), (entry.name,))
                if name != "."
            )
            is_sent = path.startswith(UPLOADS) and "/" in path
            since_ns = self._sent_until_ns + 1 if is_sent else self._since_ns
            if found.st_ctime_ns >= since_ns and found.st_ino not in self._inodes:
                self._inodes.add(found.st_ino)
                self._found.files.append(
                    MadeFile(path, found.st_size, found.st_ino, found.st_ctime_ns)
                )

    def _enter(self, name: str, levels: list[Level]) -> None:
        if len(levels) >= DEPTH_MAX:
            self._found.is_whole = False
            return
        level = Level.open(name, levels[-1].fd)
        if any(_is_there(sign, level.fd) for sign in _SIGNS_OF_NOISE):
            level.close()
        else:
            levels.append(level)


def _is_noise(name: str) -> bool:
    return name.startswith(".") or name in _NOISE or name.endswith(_NOISY_ENDS)


def _is_there(name: str, folder: int) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return False
    return True
