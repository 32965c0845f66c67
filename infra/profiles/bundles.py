"""Reads the files of an agent's bundle from the agents' folder: its skills, its workspace.

Only plain files and folders: a link could lead anywhere on the machine of anybody who reads it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from infra.wire.agents.bundle import (
    BUNDLE_FILES_MAX,
    BUNDLE_MAX_BYTES,
    PATH_MAX_DEPTH,
    SKILLS,
    WORKSPACE,
    BundleFile,
    BundleRefused,
    pack,
)

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEITHER = "neither a plain file nor a folder"
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def read_bundle(folder: Path, *, skills: Sequence[str] = (), workspace: str | None = None) -> bytes:
    """The archive of the skills in these folders of the agents' folder, and of the files that are
    in the folder `workspace` of it.

    Raises `BundleRefused`, whose message says which file is wrong and why.
    """
    reader = _Reader(folder)
    for path in skills:
        reader.take(path, f"{SKILLS}/{path.rpartition('/')[2]}")
    if workspace is not None:
        reader.take(workspace, WORKSPACE)
    return pack(reader.files)


class _Reader:
    """Reads no more than fits into a bundle."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.files: dict[str, BundleFile] = {}
        self._left = BUNDLE_MAX_BYTES

    def take(self, path: str, name: str) -> None:
        """Take the folder at that path as the bundle's folder `name`."""
        if any(known.startswith(f"{name}/") for known in self.files):
            raise BundleRefused(f"{path}: there are two of this name")
        try:
            fd = self._opened(path)
        except OSError as error:
            raise BundleRefused(f"{path}: {_why(error)}") from None
        try:
            self._take_all(fd, path, name, depth=0)
        finally:
            os.close(fd)
        if not any(known.startswith(f"{name}/") for known in self.files):
            raise BundleRefused(f"{path}: there is no file in it")

    def _opened(self, path: str) -> int:
        """The folder, opened step by step, so that no step is a link."""
        parts = path.split("/")
        if len(parts) > PATH_MAX_DEPTH or any(part in ("", ".", "..") for part in parts):
            raise BundleRefused(f"{path}: must be a folder of the agents' folder")
        fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for part in parts:
            above = fd
            try:
                fd = os.open(part, _FOLDER, dir_fd=above)
            finally:
                os.close(above)
        return fd

    def _take_all(self, fd: int, path: str, name: str, *, depth: int) -> None:
        if depth > PATH_MAX_DEPTH:
            raise BundleRefused(f"{path}: deeper than {PATH_MAX_DEPTH} folders")
        with os.scandir(fd) as entries:
            found = list(islice(entries, BUNDLE_FILES_MAX + 1))
        if len(found) > BUNDLE_FILES_MAX:
            raise BundleRefused(f"{path}: more than {BUNDLE_FILES_MAX} files")
        # In the same order everywhere, so that the same fault is named.
        for entry in sorted(found, key=lambda entry: entry.name):
            below, called = f"{path}/{entry.name}", f"{name}/{entry.name}"
            try:
                self._take_one(fd, entry, below, called, depth=depth)
            except OSError as error:
                raise BundleRefused(f"{below}: {_why(error)}") from None

    def _take_one(
        self, above: int, entry: os.DirEntry[str], path: str, name: str, *, depth: int
    ) -> None:
        if entry.is_dir(follow_symlinks=False):
            fd = os.open(entry.name, _FOLDER, dir_fd=above)
            try:
                self._take_all(fd, path, name, depth=depth + 1)
            finally:
                os.close(fd)
        elif entry.is_file(follow_symlinks=False):
            self._take_file(above, entry.name, path, name)
        else:
            raise BundleRefused(f"{path}: {_NEITHER}")

    def _take_file(self, above: int, entry: str, path: str, name: str) -> None:
        if len(self.files) >= BUNDLE_FILES_MAX:
            raise BundleRefused(f"{path}: more than {BUNDLE_FILES_MAX} files")
        with open(os.open(entry, _FILE, dir_fd=above), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise BundleRefused(f"{path}: {_NEITHER}")
            content = file.read(self._left + 1)
        self._left -= len(content)
        if self._left < 0:
            raise BundleRefused(f"{path}: with it, more than {BUNDLE_MAX_BYTES // 1024**2} MiB")
        self.files[name] = BundleFile(content, bool(found.st_mode & 0o100))


def _why(error: OSError) -> str:
    return (
        "not a folder, or a link" if isinstance(error, NotADirectoryError) else str(error.strerror)
    )
