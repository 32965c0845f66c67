"""The bundles of agents on this host, each unpacked once under its digest.

    bundles/<digest>/plugin/      what the CLI reads as a plugin: the skills
    bundles/<digest>/workspace/   the files of a new workspace
    bundles/.new-<random>/        one that is being unpacked

Containers see a bundle read-only. All methods block, but are fast: a bundle is small.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Container
from pathlib import Path

from infra.wire.agents.bundle import (
    SKILLS,
    WORKSPACE,
    BundleFile,
    BundleRefused,
    bundle_digest,
    unpack,
)
from infra.wire.agents.plugin import PLUGIN, PLUGIN_FOLDER

_FOLDER = "bundles"
_NEW = ".new-"
_NAME = re.compile(rf"[0-9a-f]{{64}}|{re.escape(_NEW)}[0-9a-f]{{16}}")
_MANIFEST = ".claude-plugin/plugin.json"


class Bundles:
    """The bundles of one data directory. Methods that write raise `OSError`."""

    def __init__(self, data_dir: Path, *, uid: int, gid: int) -> None:
        """`uid` and `gid` are an agent's, who may read them."""
        self._folder = data_dir / _FOLDER
        self._uid = uid
        self._gid = gid

    def folder(self, digest: str) -> Path:
        """Where a bundle is, whether it is there or not."""
        return self._folder / digest

    def files(self, digest: str) -> Path | None:
        """The folder with the files of a new workspace; None if the bundle has none."""
        found = self.folder(digest) / WORKSPACE
        return found if found.is_dir() else None

    def use(self, digest: str) -> bool:
        """Whether it is there. From now on it is not removed for a while."""
        with contextlib.suppress(FileNotFoundError):
            os.utime(self.folder(digest))
            return True
        return False

    def put(self, digest: str, raw: bytes) -> None:
        """Unpack an archive. Raises `BundleRefused` unless it is the one that the digest names."""
        if bundle_digest(raw) != digest:
            raise BundleRefused("not the archive that its digest names")
        files = unpack(raw)
        self._folder.mkdir(parents=True, exist_ok=True)
        new = self._folder / f"{_NEW}{secrets.token_hex(8)}"
        new.mkdir()
        try:
            for path, file in _placed(files).items():
                _write(new / path, file)
            self._give(new)
            _settle(new)
            # In one step, so that nobody sees half of it. Anybody who was faster has put the same.
            with contextlib.suppress(FileExistsError):
                _rename(new, self.folder(digest))
        finally:
            shutil.rmtree(new, ignore_errors=True)

    def drop_unused(self, used: Container[str], *, older_than_s: float) -> None:
        """Remove those that no container has and that were not used for that long."""
        if not self._folder.is_dir():
            return
        limit_s = time.time() - older_than_s
        for found in list(os.scandir(self._folder)):
            with contextlib.suppress(FileNotFoundError):
                is_old = found.stat(follow_symlinks=False).st_mtime < limit_s
                if is_old and _NAME.fullmatch(found.name) and found.name not in used:
                    shutil.rmtree(found.path, ignore_errors=True)

    def _give(self, folder: Path) -> None:
        """Everything in it is the agent's to read, whatever the umask is."""
        for above, _, names in os.walk(folder):
            os.chmod(above, 0o755)
            for path in (above, *(os.path.join(above, name) for name in names)):
                if os.getuid() == 0:
                    os.chown(path, self._uid, self._gid)


def _settle(folder: Path) -> None:
    """All of it is on the disk, so that after a power cut no empty file has a bundle's name."""
    for above, _, names in os.walk(folder):
        for path in (*(os.path.join(above, name) for name in names), above):
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


def _placed(files: dict[str, BundleFile]) -> dict[str, BundleFile]:
    """The files where they stand on a host."""
    placed = {
        f"{PLUGIN_FOLDER}/{path}" if path.startswith(f"{SKILLS}/") else path: file
        for path, file in files.items()
    }
    manifest = json.dumps({"name": PLUGIN}).encode()
    placed[f"{PLUGIN_FOLDER}/{_MANIFEST}"] = BundleFile(manifest)
    return placed


def _write(path: Path, file: BundleFile) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file.content)
    path.chmod(0o755 if file.is_executable else 0o644)


def _rename(new: Path, place: Path) -> None:
    """Raises `FileExistsError` if it is there already."""
    try:
        new.rename(place)
    except OSError:
        if place.is_dir():
            raise FileExistsError(place) from None
        raise
