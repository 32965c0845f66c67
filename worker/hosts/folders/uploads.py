"""Puts what callers send into the folder `uploads` of a workspace, and what other agents made into
another one.

The workspace is the agent's, who may have put anything there: a link to a file of the host, a
pipe that nobody writes to, a folder in a file's place. So every name is one component below a
folder that we hold open, no link is followed, and nothing that exists is ever written to: a file
gets its name when all of it has arrived, and only if nothing else has that name. As root, all of
it is done with the rights of the agent, so that no bug here reaches what the agent could not reach
itself; the files are the agent's then, to read and to change.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from infra.wire.errors import LeaseLost
from infra.wire.files.names import COMPARED, UPLOADS, names_for
from infra.wire.ids import ConversationKey, Fence
from worker.hosts.folders.folders import Folders
from worker.hosts.folders.trees import open_folder, rights_of_the_owner

_OTHERS = range(2, 10)
"""If a folder's name is taken by something else, it gets the first of these numbers that works."""
_FILE = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_NO_TEMPORARY = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT})
"""The file system has no files without a name."""
_PIECE_BYTES = 1024 * 1024


@dataclass
class OpenUpload:
    """A file that is arriving. Nobody sees it before `UploadFolder.settle`."""

    fd: int
    name: str | None
    """Its name meanwhile, where a file system has no files without one."""

    def write(self, piece: bytes) -> None:
        """Append. Raises `OSError`."""
        view = memoryview(piece)
        while view:
            view = view[os.write(self.fd, view) :]


class UploadFolder:
    """The uploads of one conversation, for one turn. All methods block; `close` ends the use.

    They raise `LeaseLost` if an owner newer than `fence` has had the workspace, and `OSError`.
    """

    def __init__(
        self, folders: Folders, c: ConversationKey, fence: Fence, *, name: str = UPLOADS
    ) -> None:
        """`name` is the folder's: one safe component."""
        self._name = name
        self._folders = folders
        self._c = c
        self._fence = fence
        self._folder: int | None = None
        self._called = ""
        self._arriving = list[OpenUpload]()

    def find(self, name: str, *, digest: str, size: int) -> str | None:
        """The path in the workspace of a file with this content that has one of its names."""
        with self._entered() as folder:
            for tried in islice(names_for(name, digest), COMPARED):
                found = _content_of(tried, folder, size)
                if found == digest:
                    return f"{self._called}/{tried}"
                if found is None:
                    return None
        return None

    def begin(self) -> OpenUpload:
        """Open a new file, until it is dropped."""
        upload = self._opened()
        self._arriving.append(upload)
        return upload

    def _opened(self) -> OpenUpload:
        with self._entered() as folder:
            try:
                return OpenUpload(
                    os.open(".", os.O_TMPFILE | os.O_RDWR, 0o644, dir_fd=folder), None
                )
            except OSError as error:
                if error.errno not in _NO_TEMPORARY:
                    raise
            name = f".{secrets.token_hex(16)}"
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _FILE
            return OpenUpload(os.open(name, flags, 0o600, dir_fd=folder), name)

    def settle(self, upload: OpenUpload, name: str, *, digest: str, size: int) -> str:
        """Give the file its name. Returns its path in the workspace."""
        with self._entered() as folder:
            os.fchmod(upload.fd, 0o644)
            for n, tried in enumerate(names_for(name, digest)):
                with contextlib.suppress(FileExistsError):
                    _link(upload, tried, folder)
                    return f"{self._called}/{tried}"
                if n < COMPARED and _content_of(tried, folder, size) == digest:
                    return f"{self._called}/{tried}"
        raise FileExistsError(errno.EEXIST, "all names for an upload are taken")

    def drop(self, upload: OpenUpload) -> None:
        """Close the file, and remove what nobody will see."""
        self._arriving.remove(upload)
        os.close(upload.fd)
        if upload.name is not None:
            with contextlib.suppress(OSError, LeaseLost), self._entered() as folder:
                os.unlink(upload.name, dir_fd=folder)

    def close(self) -> None:
        """Drop what has not arrived, and close the folder."""
        for upload in tuple(self._arriving):
            self.drop(upload)
        if self._folder is not None:
            os.close(self._folder)
            self._folder = None

    @contextlib.contextmanager
    def _entered(self) -> Iterator[int]:
        with (
            self._folders.entered(self._c, self._fence) as workspace,
            rights_of_the_owner(workspace),
        ):
            if self._folder is None:
                self._folder, self._called = _opened(workspace, self._name)
            yield self._folder


def _opened(workspace: int, wanted: str) -> tuple[int, str]:
    """The folder, and what it is called."""
    refused: OSError | None = None
    for name in (wanted, *(f"{wanted}-{n}" for n in _OTHERS)):
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o755, dir_fd=workspace)
            folder, _ = open_folder(name, workspace, to_change=True)
        except OSError as error:
            # Something else has that name, or nobody may open it.
            refused = error
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                break
        else:
            return folder, name
    assert refused is not None
    raise refused


def _link(upload: OpenUpload, name: str, folder: int) -> None:
    """Raises `FileExistsError` if anything has that name."""
    if upload.name is None:
        # With a folder as the target this follows the link to the open file itself.
        os.link(f"/proc/self/fd/{upload.fd}", name, dst_dir_fd=folder, follow_symlinks=True)
        return
    ours = os.fstat(upload.fd)
    os.link(upload.name, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    linked = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if (linked.st_dev, linked.st_ino) != (ours.st_dev, ours.st_ino):
        raise OSError(errno.ESTALE, "an upload was replaced while it arrived")


def _content_of(name: str, folder: int, size: int) -> str | None:
    """The digest of the file of that name; empty if it is no file of that size; None if nothing has
    that name.

    The agent may change it meanwhile: then the digest is that of nothing it was, or it is changed
    right afterwards, which is its own affair.
    """
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if not stat.S_ISREG(found.st_mode) or found.st_size != size:
            return ""
        # It may be a pipe by now. Opened like this, nobody is waited for.
        fd = os.open(name, os.O_RDONLY | _FILE, dir_fd=folder)
    except FileNotFoundError:
        return None
    except OSError:
        return ""
    try:
        return _digest(fd, size) if stat.S_ISREG(os.fstat(fd).st_mode) else ""
    except OSError:
        return ""
    finally:
        os.close(fd)


def _digest(fd: int, size: int) -> str:
    digest, left = hashlib.sha256(), size
    while left > 0 and (piece := os.read(fd, min(left, _PIECE_BYTES))):
        digest.update(piece)
        left -= len(piece)
    return digest.hexdigest()
