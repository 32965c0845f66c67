"""Where a host keeps a conversation's files, and who may open them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from infra.wire.ids import ConversationKey
from worker.hosts import SessionFolders

AGENT_UID = 1000


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
        return folders

    def drop_sockets(self, c: ConversationKey) -> None:
        """Remove the socket folder; the workspace stays with the conversation."""
        shutil.rmtree(self.of(c).sockets, ignore_errors=True)

    def drop_workspace(self, c: ConversationKey) -> None:
        """Forget the conversation's files for good. Blocking; may be slow."""
        shutil.rmtree(self.of(c).workspace, ignore_errors=True)
