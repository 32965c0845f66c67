"""Where a host keeps a conversation's files, and who may open them."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import secrets
import socket
import stat
import time
from pathlib import Path

from infra.wire.gateway import AGENT_SOCKET
from infra.wire.ids import ConversationKey
from worker.hosts import SessionFolders

AGENT_UID = 1000
_PROBE_S = 1.0
_TRASH = ".trash-"
_KEY = re.compile(r"[0-9a-f]{24}")
_MOVED = f".{secrets.token_hex(8)}-"
"""Not to be guessed: no file of the agent's has such a name."""


def agent_uid() -> int:
    """The uid agents run as: 1000, or the worker's own where that is another ordinary user.

    Only root can give files to somebody else.
    """
    own = os.getuid()
    return AGENT_UID if own == 0 else own


def agent_gid() -> int:
    """The group agents run as; as `agent_uid`."""
    return AGENT_UID if os.getuid() == 0 else os.getgid()


class Folders:
    """`<data_dir>/s/<c>/` (sockets) and `<data_dir>/w/<c>/` (workspace)."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir

    def of(self, c: ConversationKey) -> SessionFolders:
        """The paths, made or not."""
        return SessionFolders(self._data_dir / "s" / c, self._data_dir / "w" / c)

    def make(self, c: ConversationKey) -> SessionFolders:
        """Make the folders, private to the agent's uid. Blocking but quick."""
        folders = self.of(c)
        for path in (folders.sockets, folders.workspace):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir(mode=0o700, exist_ok=True)
            if os.getuid() == 0:
                os.chown(path, AGENT_UID, AGENT_UID)
        os.utime(folders.workspace)  # When it was last used, for `stale_workspaces`.
        return folders

    def touch(self, c: ConversationKey) -> None:
        """Note that the workspace is in use. Blocking but quick; a missing one is no error."""
        with contextlib.suppress(FileNotFoundError):
            os.utime(self.of(c).workspace)

    def stale_sockets(self, *, older_than_s: float) -> list[ConversationKey]:
        """Conversations with a socket folder that was made longer ago. Blocking.

        Where an agent still listens, it is none of ours: who asks has looked for containers before,
        and another cluster may keep its folders here.
        """
        found = _older(self._data_dir / "s", older_than_s)
        return [c for c in found if not _is_listening(self.of(c).sockets)]

    def stale_workspaces(self, *, older_than_s: float) -> list[ConversationKey]:
        """Conversations whose workspace was last used longer ago. Blocking."""
        return _older(self._data_dir / "w", older_than_s)

    def drop_sockets(self, c: ConversationKey) -> None:
        """Remove the socket folder; the workspace stays with the conversation."""
        _remove(self.of(c).sockets)

    def drop_workspace(self, c: ConversationKey) -> bool:
        """Forget the conversation's files for good; False when they are still there. May be slow.

        They are moved aside first, at once and as a whole: what then resists is trash of nobody's.
        """
        workspace = self.of(c).workspace
        trash = workspace.with_name(f"{_TRASH}{c}-{secrets.token_hex(4)}")
        try:
            workspace.rename(trash)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        _remove(trash)
        return True

    def drop_trash(self) -> None:
        """Remove what `drop_workspace` could not, or had no time to. May be slow."""
        for trash in (self._data_dir / "w").glob(f"{_TRASH}*"):
            _remove(trash)


def _remove(top: Path) -> None:
    """Remove a tree that an agent has made, and that nobody works on any more.

    Not by recursion nor by growing paths: a tree may be deeper than either can go. Each folder is
    moved up to the top before it is emptied. What resists stays.
    """
    numbers = itertools.count()
    left = [os.fspath(top)]
    while left:
        folder = left.pop()
        with contextlib.suppress(OSError):
            # An agent can take away our right to its folders, where we are the same ordinary user.
            os.chmod(folder, 0o700)
            for entry in list(os.scandir(folder)):
                with contextlib.suppress(OSError):
                    if not entry.is_dir(follow_symlinks=False):
                        os.unlink(entry.path)
                        continue
                    os.chmod(entry.path, 0o700)
                    if folder != os.fspath(top):
                        above = top / f"{_MOVED}{next(numbers)}"
                        os.rename(entry.path, above)
                        left.append(os.fspath(above))
                    else:
                        left.append(entry.path)
            if folder != os.fspath(top):
                os.rmdir(folder)
    with contextlib.suppress(OSError):
        os.rmdir(top)


def _is_listening(sockets: Path) -> bool:
    """Whether an agent takes connections there."""
    with contextlib.suppress(OSError):
        handle = os.open(sockets / AGENT_SOCKET, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if not stat.S_ISSOCK(os.fstat(handle).st_mode):
                return False
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(_PROBE_S)
                # By descriptor: the path may be too long for an address, and swapped meanwhile.
                probe.connect(f"/proc/self/fd/{handle}")
            return True
        except TimeoutError:
            return True  # Its backlog is full: somebody is there.
        finally:
            os.close(handle)
    return False


def _older(folder: Path, older_than_s: float) -> list[ConversationKey]:
    limit_s = time.time() - older_than_s
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                # One may vanish at any moment: another worker of this host tidies too.
                with contextlib.suppress(FileNotFoundError):
                    if _KEY.fullmatch(entry.name) is None:
                        continue  # Not ours, whatever it is.
                    if entry.stat(follow_symlinks=False).st_mtime < limit_s:
                        found.append(ConversationKey(entry.name))
    except FileNotFoundError:
        return []
    return found
