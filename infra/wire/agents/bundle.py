"""The bundle of an agent's version: its skills and the files of a new workspace, as one archive.

The archive has one form only: a tar file of plain files in the order of their paths, without owners
and times. So the same files give the same bytes on every machine, and a digest of them names the
bundle. An archive from elsewhere is read with `unpack`, which accepts nothing but
that form: no links, no devices, no way out of its folder, nothing beyond the limits.

    skills/<skill>/SKILL.md     a skill, and whatever else is in its folder
    workspace/<path>            a file of a new workspace
"""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from infra.wire.agents.skill_head import fault_of_head
from infra.wire.errors import AgClusterError

BUNDLE_MAX_BYTES = 4 * 1024 * 1024
"""Largest archive."""
BUNDLE_FILES_MAX = 500
PATH_MAX_CHARS = 200
PATH_MAX_DEPTH = 12
SKILLS, WORKSPACE = "skills", "workspace"
"""The two folders of a bundle."""
SKILL_FILE = "SKILL.md"
"""The file that makes a folder a skill."""

_SKILL_FILE_LOWER = SKILL_FILE.lower()
_SKILL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?")
_MODE, _MODE_EXECUTABLE = 0o644, 0o755
_UNREADABLE = (tarfile.TarError, ValueError, OverflowError, EOFError, LookupError)


class BundleRefused(AgClusterError):
    """Files that make no bundle, or an archive that is none. The message says which and why."""


@dataclass(frozen=True)
class BundleFile:
    """A file of a bundle."""

    content: bytes
    is_executable: bool = False


def pack(files: Mapping[str, BundleFile]) -> bytes:
    """The archive of these files, by their paths. Raises `BundleRefused`."""
    _refuse_files(files)
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(files):
            file = files[path]
            entry = tarfile.TarInfo(path)
            entry.size = len(file.content)
            entry.mode = _MODE_EXECUTABLE if file.is_executable else _MODE
            archive.addfile(entry, io.BytesIO(file.content))
    raw = output.getvalue()
    if len(raw) > BUNDLE_MAX_BYTES:
        raise BundleRefused(_TOO_LARGE)
    return raw


def unpack(raw: bytes) -> dict[str, BundleFile]:
    """The files of an archive by their paths. Raises `BundleRefused` unless it is what `pack` makes
    of them."""
    if len(raw) > BUNDLE_MAX_BYTES:
        raise BundleRefused(_TOO_LARGE)
    try:
        files = dict(_read(raw))
    except _UNREADABLE as error:
        raise BundleRefused(f"not a tar archive: {error}") from None
    # What two readers of tar could understand differently is not written like this.
    if pack(files) != raw:
        raise BundleRefused("not in the form in which bundles are written")
    return files


def bundle_digest(raw: bytes) -> str:
    """What an archive is known by: its SHA-256, as 64 hex digits."""
    return hashlib.sha256(raw).hexdigest()


def skills_of(paths: Iterable[str]) -> tuple[str, ...]:
    """The names of the skills among the files of a bundle, in order."""
    parts = (path.split("/") for path in paths)
    return tuple(sorted({part[1] for part in parts if part[0] == SKILLS and len(part) > 2}))


def is_skill_name(name: str) -> bool:
    """Whether a skill may have this name: small letters, digits, and `-` between them."""
    return _SKILL.fullmatch(name) is not None


_TOO_LARGE = f"larger than {BUNDLE_MAX_BYTES // 1024**2} MiB"


def _read(raw: bytes) -> Iterator[tuple[str, BundleFile]]:
    with tarfile.open(fileobj=io.BytesIO(raw), mode="r:") as archive:
        for number, entry in enumerate(archive):
            if number >= BUNDLE_FILES_MAX:
                raise BundleRefused(_TOO_MANY)
            if entry.type != tarfile.REGTYPE or entry.sparse is not None:
                raise BundleRefused(f"{_shown(entry.name)}: not a plain file")
            if not 0 <= entry.size <= len(raw):
                raise BundleRefused(f"{_shown(entry.name)}: longer than the archive")
            content = archive.extractfile(entry)
            assert content is not None, "a plain file has content"
            yield entry.name, BundleFile(content.read(), entry.mode == _MODE_EXECUTABLE)


_TOO_MANY = f"more than {BUNDLE_FILES_MAX} files"


def _refuse_files(files: Mapping[str, BundleFile]) -> None:
    if len(files) > BUNDLE_FILES_MAX:
        raise BundleRefused(_TOO_MANY)
    if sum(len(file.content) for file in files.values()) > BUNDLE_MAX_BYTES:
        raise BundleRefused(_TOO_LARGE)
    for path in files:
        _refuse_path(path)
    folders = {folder for path in files for folder in _above(path)}
    if both := sorted(folders & files.keys()):
        raise BundleRefused(f"{_shown(both[0])}: a file and a folder")
    for skill in skills_of(files):
        if not is_skill_name(skill):
            raise BundleRefused(
                f"{SKILLS}/{_shown(skill)}: a skill's name has small letters, digits and `-`"
            )
        if f"{SKILLS}/{skill}/{SKILL_FILE}" not in files:
            raise BundleRefused(f"{SKILLS}/{skill}: has no {SKILL_FILE}")
    for path, file in files.items():
        if path.startswith(f"{SKILLS}/") and path.rpartition("/")[2].lower() == _SKILL_FILE_LOWER:
            _refuse_head(path, file.content)


def _refuse_head(path: str, content: bytes) -> None:
    try:
        fault = fault_of_head(content.decode())
    except UnicodeDecodeError:
        fault = "not UTF-8"
    if fault is not None:
        raise BundleRefused(f"{_shown(path)}: {fault}")


def _refuse_path(path: str) -> None:
    parts = path.split("/")
    if len(path) > PATH_MAX_CHARS or len(parts) > PATH_MAX_DEPTH:
        raise BundleRefused(
            f"{_shown(path)}: longer than {PATH_MAX_CHARS} characters or deeper than "
            f"{PATH_MAX_DEPTH} folders"
        )
    if not all(map(_is_plain, parts)) or unicodedata.normalize("NFC", path) != path:
        raise BundleRefused(f"{_shown(path)}: not a plain path")
    least = {SKILLS: 3, WORKSPACE: 2}.get(parts[0])
    if least is None or len(parts) < least:
        raise BundleRefused(
            f"{_shown(path)}: a bundle has {SKILLS}/<skill>/... and {WORKSPACE}/... only"
        )


def _is_plain(part: str) -> bool:
    """Whether this is a file's name and nothing else, on every file system."""
    is_name = part not in ("", ".", "..") and len(part.encode(errors="replace")) <= 255
    return is_name and part.isprintable() and "\\" not in part


def _above(path: str) -> Iterator[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def _shown(text: str) -> str:
    """For a message: it may come from anybody."""
    return repr(text[:PATH_MAX_CHARS])[1:-1]
