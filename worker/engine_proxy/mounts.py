"""Checks what a container has really mounted: the folders that were checked, or others.

The engine resolves the path of a mount again when it starts a container, and follows links. A
compromised worker could put a link there after the proxy's check. So the folders stay open from the
check on, and their device and inode are compared with what the started container has mounted.

Runtimes with a kernel of their own (gVisor) do not show what they have mounted. For those, the
proxy checks again whether the folders are in their place. That finds less: it misses a folder that
was swapped and put back.

For the comparison the proxy has to see the host's processes (`pid: host` in `compose.yaml`), with
the uid of agents or as root. It treats what it cannot see as wrong.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from infra.wire.agents.plugin import BUNDLE_AT
from infra.wire.errors import AgClusterError
from worker.hosts.folders.folders import agent_uid
from worker.hosts.host import SOCKETS_AT, WORKSPACE_AT, SessionFolders

Look = Callable[[int, str], os.stat_result]
"""Returns what is at a path for a process, by its pid. Raises `OSError`."""

SHARING_RUNTIMES = frozenset({"runc", "crun", "youki"})
"""Runtimes whose containers' mounts are those of a process of this kernel."""

_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class EngineCallRefused(AgClusterError):
    """A call that a worker does not need. The message says what was wrong with it."""


@contextmanager
def held_folders(folders: SessionFolders) -> Iterator[Mapping[str, int]]:
    """Descriptors of the folders to mount, by their path inside. They are kept open so that no
    other folder can get their inodes meanwhile.

    Raises `EngineCallRefused` unless they are folders and belong to the agent.
    """
    with ExitStack() as opened:
        found = {}
        for place, path in _places(folders):
            above = _opened(path.parent, None, opened)
            fd = found[place] = _opened(path, above, opened)
            if os.fstat(fd).st_uid != agent_uid():
                raise EngineCallRefused(f"{path} does not belong to the agent")
        yield found


def _places(folders: SessionFolders) -> Iterator[tuple[str, Path]]:
    yield SOCKETS_AT, folders.sockets
    yield WORKSPACE_AT, folders.workspace
    if folders.bundle is not None:
        yield BUNDLE_AT, folders.bundle


def _opened(path: Path, above: int | None, opened: ExitStack) -> int:
    try:
        fd = os.open(path if above is None else path.name, _FOLDER, dir_fd=above)
    except NotADirectoryError as error:
        raise EngineCallRefused(f"{path} is not a folder") from error
    except OSError as error:
        raise EngineCallRefused(f"{path}: {error.strerror}") from error
    opened.callback(os.close, fd)
    return fd


def first_exchanged(held: Mapping[str, int], again: Mapping[str, int]) -> str | None:
    """The first folder that was replaced by another one, which was opened later."""
    for place, fd in held.items():
        if not os.path.sameopenfile(fd, again[place]):
            return f"{place} is not the folder that was looked at"
    return None


def look_inside(pid: int, place: str) -> os.stat_result:
    """An implementation of `Look`. The container's root is read-only, so no name in it can be
    swapped."""
    return os.stat(f"/proc/{pid}/root{place}", follow_symlinks=False)


def first_wrong_mount(held: Mapping[str, int], pid: int, look: Look) -> str | None:
    """What is wrong with the process's mounts; None if they are the folders that were held open.

    Raises `ProcessLookupError` and `FileNotFoundError` if there is no such process.
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
