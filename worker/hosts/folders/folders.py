"""The folders in which a host keeps a conversation's files, and who may open them.

    s/<c>/          sockets, mounted into the agent's container
    w/<c>/          workspace, also mounted
    bundles/        skills and files of agents (`worker.hosts.folders.bundles`)
    s/.trash, w/.trash   what is being removed; no agent can reach it
    f/<c>           the owner of the folders (`worker.hosts.folders.records`)
    owner           the cluster whose data this is (`worker.hosts.folders.owner`)
    machine         the id of this machine (`worker.hosts.folders.machine`)

An agent may do anything in its two folders, and nothing elsewhere. So this module trusts nothing in
them. What is removed is first moved away as a whole, then deleted by descriptors
(`worker.hosts.folders.trees`). Every change is made under the owner's fence: folders of a newer
owner are left alone.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from infra.wire.ids import ConversationKey, Fence
from infra.wire.socket_folder import LAUNCH_FILE
from worker.hosts.folders.bundles import Bundles
from worker.hosts.folders.moves import move_entries, refuse_too_many
from worker.hosts.folders.records import FolderRecords
from worker.hosts.folders.trees import open_folder, remove_tree
from worker.hosts.form import ContainerForm
from worker.hosts.host import SessionFolders

AGENT_UID = 1000
_SOCKETS, _WORKSPACES, _RECORDS = "s", "w", "f"
_TRASH = ".trash"
_KEY = re.compile(r"[0-9a-f]{24}")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def agent_uid() -> int:
    """The uid of agents: 1000, or the worker's own if it is another ordinary user.

    Only root can give files to another user.
    """
    own = os.getuid()
    return AGENT_UID if own == 0 else own


def agent_gid() -> int:
    """The group of agents, chosen like `agent_uid`."""
    return AGENT_UID if os.getuid() == 0 else os.getgid()


@dataclass(frozen=True)
class StaleFolder:
    """A folder that was not used for a while. `fence`: of its last owner."""

    conversation: ConversationKey
    fence: Fence


class Folders:
    """The folders of one data directory. All methods block; all but removals are fast.

    Methods that change something raise `LeaseLost` if an owner newer than `fence` has had the
    folders, and `OSError`.
    """

    def __init__(
        self, data_dir: Path, *, later: Callable[[Callable[[], None]], None] | None = None
    ) -> None:
        """`later` runs a removal elsewhere, because it may be slow; without it, a drop waits."""
        self._data_dir = data_dir
        self._later = later or (lambda removal: removal())

    @property
    def bundles(self) -> Bundles:
        """The bundles of agents on this host."""
        return Bundles(self._data_dir, uid=agent_uid(), gid=agent_gid())

    def formed(self, folders: SessionFolders, form: ContainerForm) -> SessionFolders:
        """The folders with the bundle that a container of this form sees."""
        bundle = self.bundles.folder(form.bundle) if form.bundle is not None else None
        return replace(folders, bundle=bundle)

    def furnish(self, c: ConversationKey, fence: Fence, files: Path) -> bool:
        """Put copies of these files into the conversation's workspace, if it is empty, all of them
        or none. Returns whether it was empty.

        Called while no container has it. `files` is a folder of ours, with plain files only.
        """
        with self._records() as records, records.held(c) as record:
            record.refuse_if_newer(fence)
            with self._opened(_WORKSPACES) as above, _trash(above) as trash:
                if not _is_empty(c, above):
                    return False
                made = f"{c}-{secrets.token_hex(4)}"
                place = self._data_dir / _WORKSPACES / _TRASH / made
                try:
                    shutil.copytree(files, place)
                    _give(place)
                    # An empty folder of that name is replaced.
                    os.rename(made, c, src_dir_fd=trash, dst_dir_fd=above)
                except OSError as error:
                    remove_tree(made, trash)
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                        raise
                    return False
        return True

    def of(self, c: ConversationKey) -> SessionFolders:
        """The paths, whether they exist or not."""
        return SessionFolders(self._data_dir / _SOCKETS / c, self._data_dir / _WORKSPACES / c)

    def make(
        self, c: ConversationKey, fence: Fence, *, launch: bytes | None = None
    ) -> SessionFolders:
        """Create the folders, private to the agent's uid. `launch` is the content of the launch
        file, which the agent removes; if it cannot be written, there is none."""
        with self._records() as records, records.held(c) as record:
            record.take(fence)
            for kind in (_SOCKETS, _WORKSPACES):
                (self._data_dir / kind).mkdir(exist_ok=True)
                with self._opened(kind) as above:
                    _make_private(c, above)
            with contextlib.suppress(OSError), self._opened(_SOCKETS) as above:
                _put(LAUNCH_FILE, launch, c, above)
        return self.of(c)

    def adopt(
        self,
        spare: ConversationKey,
        c: ConversationKey,
        fence: Fence,
        *,
        begin: Callable[[], None] = lambda: None,
    ) -> SessionFolders:
        """The folders of a spare become the conversation's, and get the files that it has here.

        Its container keeps them mounted. Repeat it after a crash: what was done is not done again.
        `begin` is called under the record's lock, before anything is moved: a newer owner that
        takes the folders later finds what it wrote, and after a newer owner it is not called, nor
        if there is too much to move (`TooManyEntries`).
        """
        with self._records() as records, records.held(c) as record:
            record.take(fence)
            self._refuse_too_many(spare, c)
            begin()
            # First, because it may be refused.
            self._adopt_workspace(spare, c)
            self._adopt_sockets(spare, c)
        return self.of(c)

    def _refuse_too_many(self, spare: ConversationKey, c: ConversationKey) -> None:
        with self._opened(_WORKSPACES) as above:
            if _is_there(spare, above) and _is_there(c, above):
                refuse_too_many(c, above=above)

    def _adopt_sockets(self, spare: ConversationKey, c: ConversationKey) -> None:
        with self._opened(_SOCKETS) as above, _trash(above) as trash:
            if not _is_there(spare, above):
                return
            moved = f"{c}-{secrets.token_hex(4)}"
            if is_moved := _move(c, above, moved, trash):
                self._later(partial(self._remove, _SOCKETS, moved))
            if is_moved is False:
                raise OSError(f"the sockets of {c} stay where they are")
            os.rename(spare, c, src_dir_fd=above, dst_dir_fd=above)

    def _adopt_workspace(self, spare: ConversationKey, c: ConversationKey) -> None:
        with self._opened(_WORKSPACES) as above:
            if not _is_there(spare, above):
                return
            if _is_there(c, above):
                move_entries(c, spare, above=above)
            # An empty folder of that name is replaced.
            os.rename(spare, c, src_dir_fd=above, dst_dir_fd=above)

    def take(self, c: ConversationKey, fence: Fence) -> SessionFolders:
        """Record a new owner for the folders of a running container."""
        with self._records() as records, records.held(c) as record:
            record.take(fence)
        return self.of(c)

    @contextlib.contextmanager
    def entered(self, c: ConversationKey, fence: Fence) -> Iterator[int]:
        """The open workspace, while no newer owner can take it."""
        with self._records() as records, records.held(c) as record:
            record.refuse_if_newer(fence)
            with self._opened(_WORKSPACES) as above:
                workspace, _ = open_folder(c, above, to_change=True)
                try:
                    yield workspace
                finally:
                    os.close(workspace)

    def last_fence(self, c: ConversationKey) -> Fence:
        """The fence of the last owner on this host; 0 if there is none, or it cannot be read."""
        with contextlib.suppress(OSError), self._records() as records:
            if (record := records.of(c)) is not None:
                return record.fence
        return Fence(0)

    def touch(self, c: ConversationKey) -> None:
        """Record that the folders are in use. Missing folders or a full disk are not errors."""
        with contextlib.suppress(OSError), self._records() as records:
            records.touch(c)

    def stale_sockets(self, *, older_than_s: float) -> list[StaleFolder]:
        """Socket folders that were not used for that long."""
        return self._stale(_SOCKETS, older_than_s)

    def stale_workspaces(self, *, older_than_s: float) -> list[StaleFolder]:
        """Workspaces that were not used for that long."""
        return self._stale(_WORKSPACES, older_than_s)

    def drop_sockets(self, c: ConversationKey, fence: Fence) -> bool:
        """Remove the socket folder; the conversation keeps its workspace. See `drop_workspace`."""
        return self._drop(_SOCKETS, c, fence)

    def drop_workspace(self, c: ConversationKey, fence: Fence) -> bool:
        """Delete the conversation's files for good; False if they still exist. May be slow.

        Call this only once the container is known to have ended. The files are first moved away, at
        once and as a whole; whatever cannot be deleted then is trash that belongs to no
        conversation.
        """
        return self._drop(_WORKSPACES, c, fence)

    def drop_trash(self) -> None:
        """Remove what could not be removed before, or was not removed in time. May be slow."""
        for kind in (_SOCKETS, _WORKSPACES):
            if not (self._data_dir / kind).exists():
                continue
            with self._opened(kind) as above, _trash(above) as trash:
                for name in _names(trash):
                    remove_tree(name, trash)
        self._forget_the_gone()

    def _drop(self, kind: str, c: ConversationKey, fence: Fence) -> bool:
        if not (self._data_dir / kind).exists():
            return True
        with self._opened(kind) as above, _trash(above) as trash:
            moved = f"{c}-{secrets.token_hex(4)}"
            with self._records() as records, records.held(c) as record:
                record.refuse_if_newer(fence)
                is_moved = _move(c, above, moved, trash)
        if is_moved:
            self._later(partial(self._remove, kind, moved))
        return is_moved is not False

    def _remove(self, kind: str, moved: str) -> None:
        with self._opened(kind) as above, _trash(above) as trash:
            remove_tree(moved, trash)

    def _forget_the_gone(self) -> None:
        """Remove records whose folders are gone. A record whose lock is held stays: it is about to
        be used."""
        with self._records() as records:
            for name in filter(_KEY.fullmatch, records.all()):
                c = ConversationKey(name)
                if self._has_folders(c):
                    continue
                with contextlib.suppress(OSError), records.held(c, timeout_s=0) as record:
                    if not self._has_folders(c):
                        record.forget()

    def _has_folders(self, c: ConversationKey) -> bool:
        folders = self.of(c)
        return any(os.path.lexists(path) for path in (folders.sockets, folders.workspace))

    def _stale(self, kind: str, older_than_s: float) -> list[StaleFolder]:
        limit_s, found = time.time() - older_than_s, list[StaleFolder]()
        if not (self._data_dir / kind).exists():
            return found
        with self._opened(kind) as above, self._records() as records:
            for name in filter(_KEY.fullmatch, _names(above)):
                c = ConversationKey(name)
                record = records.of(c)
                if record is None:
                    # From an earlier version: its time starts now.
                    with contextlib.suppress(OSError), records.held(c):
                        pass
                elif record.used_s < limit_s:
                    found.append(StaleFolder(c, record.fence))
        return found

    @contextlib.contextmanager
    def _records(self) -> Iterator[FolderRecords]:
        (self._data_dir / _RECORDS).mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._opened(_RECORDS) as folder:
            yield FolderRecords(folder)

    @contextlib.contextmanager
    def _opened(self, kind: str) -> Iterator[int]:
        fd = os.open(self._data_dir / kind, _FOLDER)
        try:
            yield fd
        finally:
            os.close(fd)


@contextlib.contextmanager
def _trash(above: int) -> Iterator[int]:
    with contextlib.suppress(FileExistsError):
        os.mkdir(_TRASH, 0o700, dir_fd=above)
    fd = os.open(_TRASH, _FOLDER, dir_fd=above)
    try:
        yield fd
    finally:
        os.close(fd)


def _make_private(name: str, above: int) -> None:
    """Create a folder for the agent. Its trash is created with it, so that a full disk cannot
    prevent its removal.

    Raises `OSError`, also if something else has that name.
    """
    with _trash(above), contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=above)
    if os.getuid() != 0:
        return
    fd = os.open(name, _FOLDER, dir_fd=above)
    try:
        os.fchown(fd, AGENT_UID, AGENT_UID)
    finally:
        os.close(fd)


def _give(workspace: Path) -> None:
    """A workspace that was made elsewhere, with all that is in it, becomes an agent's."""
    workspace.chmod(0o700)
    if os.getuid() != 0:
        return
    for above, _, names in os.walk(workspace):
        for path in (above, *(os.path.join(above, name) for name in names)):
            os.chown(path, AGENT_UID, AGENT_UID)


def _put(name: str, content: bytes | None, folder: str, above: int) -> None:
    """Write a file for the agent into one of its folders, or none. An earlier agent may have left
    anything under that name."""
    fd = os.open(folder, _FOLDER, dir_fd=above)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=fd)
        if content is None:
            return
        with open(os.open(name, _NEW_FILE, 0o600, dir_fd=fd), "wb") as file:
            if os.getuid() == 0:
                os.fchown(file.fileno(), AGENT_UID, AGENT_UID)
            file.write(content)
    finally:
        os.close(fd)


def _move(name: str, above: int, moved: str, trash: int) -> bool | None:
    """Whether it was moved; None if it does not exist."""
    try:
        if stat.S_ISDIR(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode):
            # Moving a folder changes it, and the agent may have removed our right to do that.
            fd, _ = open_folder(name, above, to_change=True)
            os.close(fd)
        os.rename(name, moved, src_dir_fd=above, dst_dir_fd=trash)
    except FileNotFoundError:
        return None
    except OSError:
        return False
    return True


def _is_there(name: str, above: int) -> bool:
    try:
        os.stat(name, dir_fd=above, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _is_empty(name: str, above: int) -> bool:
    fd, _ = open_folder(name, above, to_change=True)
    try:
        with os.scandir(fd) as entries:
            return next(entries, None) is None
    finally:
        os.close(fd)


def _names(folder: int) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries]
