"""What a container really has mounted: the folders that were looked at, or others.

The engine resolves the path of a mount again when it starts a container, and follows links. A
worker that was taken over could put a link there after the proxy's look. So the folders are held
open from the look on, and compared by device and inode with what the started container has.

Runtimes with a kernel of their own (gVisor) show nobody what they have mounted. With those it is
looked again whether the folders are in their place, which finds less: not one that came and went.

For the comparison the proxy has to see the host's processes (`pid: host` in `compose.yaml`), with
the uid that agents have or as root. What it cannot see it takes for wrong.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from infra.wire.errors import AgClusterError
from worker.hosts.folders.folders import agent_uid
from worker.hosts.host import SOCKETS_AT, WORKSPACE_AT, SessionFolders

Look = Callable[[int, str], os.stat_result]
"""What lies at a path for a process, by its pid. Raises `OSError`."""

SHARING_RUNTIMES = frozenset({"runc", "crun", "youki"})
"""Whose containers' mounts are those of a process of this kernel."""

_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class EngineCallRefused(AgClusterError):
    """A call that a worker has no need of. The message says what was wrong with it."""


@contextmanager
def held_folders(folders: SessionFolders) -> Iterator[Mapping[str, int]]:
    """Descriptors of what is to be mounted, by its place inside. Held, so that no other folder can
    have their inodes meanwhile.

    Raises `EngineCallRefused` unless they are folders, and the agent's.
    """
    with ExitStack() as opened:
        found = {}
        for place, path in ((SOCKETS_AT, folders.sockets), (WORKSPACE_AT, folders.workspace)):
            above = _opened(path.parent, None, opened)
            fd = found[place] = _opened(path, above, opened)
            if os.fstat(fd).st_uid != agent_uid():
                raise EngineCallRefused(f"{path} does not belong to the agent")
        yield found


def _opened(path: Path, above: int | None, opened: ExitStack) -> int:
    try:
        fd = os.open(path if above is None else path.name, _FOLDER, dir_fd=above)
    except NotADirectoryError as error:
        raise EngineCallRefused(f"{path} is not a folder") from error
    except OSError as error:
        raise EngineCallRefused(f"{path}: {error.strerror}") from error
    opened.callback(os.close, fd)
    return fd


def first_exchanged(held: Mapping[str, int], folders: SessionFolders) -> str | None:
    """Which of them has another folder in its place by now. Raises `EngineCallRefused`."""
    with held_folders(folders) as again:
        for place, fd in held.items():
            if not os.path.sameopenfile(fd, again[place]):
                return f"{place} is not the folder that was looked at"
    return None


def look_inside(pid: int, place: str) -> os.stat_result:
    """As `Look`. The container's root is read-only, so no name in it can be exchanged."""
    return os.stat(f"/proc/{pid}/root{place}", follow_symlinks=False)


def first_wrong_mount(held: Mapping[str, int], pid: int, look: Look) -> str | None:
    """What is wrong with the mounts of the process; None when they are what was held.

    Raises `ProcessLookupError` and `FileNotFoundError` when there is no such process.
    """
    for place, fd in held.items():
        wanted = os.fstat(fd)
        try:
            found = look(pid, place)
        except PermissionError as error:
            return f"{place} of process {pid} cannot be looked at: {error.strerror}"
        is_it = (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino)
        if not is_it or not stat.S_ISDIR(found.st_mode):
            return f"{place} is not the folder that was looked at"
    return None
