"""Unix sockets in folders that others may write to.

A session's folder belongs to its agent, which may create any file there at any moment. So an
existing file is unlinked (this never follows a link), the socket is bound (this fails if the name
exists), and its mode comes from the umask of that moment. A later chmod could follow a link that
the agent put there.
"""

from __future__ import annotations

import logging
import os
import socket
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from infra.runtime.logs import fields
from infra.wire.errors import AgClusterError

log = logging.getLogger(__name__)

PATH_MAX_BYTES = 107
_BACKLOG = 128


class SocketRefused(AgClusterError):
    """A socket cannot be created there; the message says why."""


@dataclass(frozen=True)
class BoundSocket:
    """A listening socket and the file it was bound to."""

    socket: socket.socket
    path: Path
    device: int
    inode: int

    @property
    def is_in_place(self) -> bool:
        """Whether the file still exists and is still ours."""
        try:
            found = os.lstat(self.path)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == (self.device, self.inode)

    def unlink(self) -> None:
        """Remove its file, unless it was replaced by another one."""
        try:
            if self.is_in_place:
                _unlink(self.path)
        except OSError as error:
            log.warning("socket file stays", extra=fields(path=self.path, reason=error.strerror))

    def close(self) -> None:
        """Remove the file and close the socket. Call this when no server uses it any longer."""
        self.unlink()
        self.socket.close()


def listen_at(path: Path, *, mode: int) -> BoundSocket:
    """Listen on this path, replacing an existing file. Raises `SocketRefused`.

    Must not be called from a thread, because it changes the umask of the process for a moment.
    """
    if len(os.fsencode(path)) > PATH_MAX_BYTES:
        raise SocketRefused(
            f"{path}: the name of a Unix socket ends at {PATH_MAX_BYTES} bytes; "
            "choose a shorter data_dir"
        )
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o777 & ~mode)
    try:
        _unlink(path)
        bound.bind(str(path))
        found = os.lstat(path)
        bound.listen(_BACKLOG)
        bound.setblocking(False)
    except OSError as error:
        bound.close()
        raise SocketRefused(f"cannot listen at {path}: {error.strerror}") from error
    finally:
        os.umask(before)
    return BoundSocket(bound, path, found.st_dev, found.st_ino)


def check_folder(folder: Path, *, inside: Path) -> None:
    """Raises `SocketRefused` unless it is a real folder inside the given one.

    Only the worker can write to the folders above it, so the result cannot change afterwards.
    """
    if not folder.is_absolute() or not folder.is_relative_to(inside) or ".." in folder.parts:
        raise SocketRefused(f"{folder} is not inside {inside}")
    try:
        is_folder = stat.S_ISDIR(os.lstat(folder).st_mode)
    except OSError as error:
        raise SocketRefused(f"{folder}: {error.strerror}") from error
    if not is_folder:
        raise SocketRefused(f"{folder} is not a folder")


def is_answered(path: Path) -> bool:
    """Whether a running process listens there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def _unlink(path: Path) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)
