"""Agents that were installed from the registry: read, and checked each time that they are read.

They are in the folder `installed` of the agents' folder, one folder each under the name that they
have here. `installed.json` in it says which version counts, and beside it is that version: the
release's first line, and its files. So a version is exchanged by replacing one small file.

Nothing in these folders is trusted. The signature is checked against the publishers of now, each
file against its digest, the profile against the policy of now. What does not pass is left out.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from infra.profiles.places import ProfileRefused
from infra.profiles.read import BUNDLES_MAX_BYTES, AgentsRead, read_with_bundles
from infra.releases.fields import check
from infra.releases.keys import TrustedPublishers
from infra.releases.policy import InstalledPolicy
from infra.releases.refused import ReleaseRefused
from infra.releases.release import (
    HEADER_MAX_BYTES,
    PROFILE_FILE,
    Release,
    ReleasedContent,
    ReleaseName,
    Sha256,
    check_file,
    read_header,
)
from infra.releases.versions import version_key
from infra.wire.agents.part import AGENT_NAME
from infra.wire.agents.profile import AgentProfile
from infra.wire.text.foreign import foreign

FOLDER = "installed"
MARK = "installed.json"
HEADER = "release.json"
FILES = "files"
PROFILE = PROFILE_FILE.removesuffix(".yaml")
INSTALLED_MAX = 200
MARK_MAX_BYTES = 64 * 1024


class InstalledMark(BaseModel):
    """Which version of which agent is installed under a name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ReleaseName
    version: str
    digest: Sha256
    """Of the whole release."""
    tenants: tuple[Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{20}$")], ...] = ()
    """Who may see and use it; empty for all."""

    @property
    def publisher(self) -> str:
        return self.name.partition("/")[0]


@dataclass(frozen=True)
class InstalledAgent:
    """One of them, as it may be used."""

    mark: InstalledMark
    read: AgentsRead

    @property
    def profile(self) -> AgentProfile:
        [profile] = self.read.profiles.values()
        return profile


@dataclass
class InstalledAgents:
    """All of them by the names that they have here, and why others are left out."""

    agents: dict[str, InstalledAgent] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    @property
    def as_read(self) -> AgentsRead:
        """Their profiles and bundles."""
        bundles: dict[str, bytes] = {}
        for one in self.agents.values():
            bundles |= one.read.bundles
        return AgentsRead({name: one.profile for name, one in self.agents.items()}, bundles)


class InstalledFolder:
    """The installed agents of one agents' folder."""

    def __init__(
        self, agents_folder: Path, *, publishers: TrustedPublishers, policy: InstalledPolicy
    ) -> None:
        self.folder = agents_folder / FOLDER
        self._publishers = publishers
        self._policy = policy

    def read(self) -> InstalledAgents:
        """All that pass every check. Raises `OSError` if the folder itself cannot be listed."""
        found, room = InstalledAgents(), BUNDLES_MAX_BYTES
        for name in self.names():
            try:
                one = self.read_one(name)
                room -= sum(map(len, one.read.bundles.values()))
                if room < 0:
                    raise ReleaseRefused("the files of all of them are more than a replica holds")
                found.agents[name] = one
            except (ReleaseRefused, ProfileRefused) as refused:
                found.faults.extend(f"{name}: {fault}" for fault in refused.faults)
            except OSError as error:
                found.faults.append(f"{name}: {error}")
        return found

    def names(self) -> list[str]:
        """The names under which agents are installed, at most `INSTALLED_MAX`."""
        if not self.folder.is_dir():
            return []
        found = (path for path in self.folder.iterdir() if not path.name.startswith("."))
        return sorted(path.name for path in found if (path / MARK).is_file())[:INSTALLED_MAX]

    def mark_of(self, name: str) -> InstalledMark | None:
        """What is installed under the name. Raises `ReleaseRefused` and `OSError`."""
        file = self._folder_of(name) / MARK
        if not file.is_file():
            return None
        try:
            return InstalledMark.model_validate_json(_bytes(file, MARK_MAX_BYTES))
        except ValidationError:
            raise ReleaseRefused(f"{file} was changed by hand; install the agent again") from None

    def read_one(self, name: str) -> InstalledAgent:
        """Raises `ReleaseRefused`, `ProfileRefused` and `OSError`."""
        mark = self.mark_of(name)
        if mark is None:
            raise ReleaseRefused(f"no agent is installed as {name}")
        place = self._place(name, mark)
        release = self._opened(place)
        if hashlib.sha256(release.raw).hexdigest() != mark.digest or (
            (release.manifest.name, release.manifest.version) != (mark.name, mark.version)
        ):
            raise ReleaseRefused("this is not the release that was installed")
        return InstalledAgent(mark, self.checked(place / FILES, tenants=mark.tenants))

    def checked(self, files: Path, *, tenants: tuple[str, ...] = ()) -> AgentsRead:
        """The profile of an unpacked release, as the policy lets it be, and its bundle.

        Raises `ReleaseRefused`, `ProfileRefused` and `OSError`.
        """
        read = read_with_bundles(files)
        profile = check(read.profiles[PROFILE], self._policy)
        return AgentsRead({PROFILE: profile.model_copy(update={"tenants": tenants})}, read.bundles)

    def looked_at(self, release: Release) -> AgentProfile:
        """What a release would be here. Raises `ReleaseRefused`, `ProfileRefused` and `OSError`."""
        return check(read_release(release), self._policy)

    def install(
        self, name: str, release: Release, *, tenants: tuple[str, ...] = ()
    ) -> InstalledAgent:
        """Put a release there under that name, instead of an earlier version.

        Raises `ReleaseRefused` if it must not be used here, or is older than what is there;
        `ProfileRefused` and `OSError`. What was installed before then stays.
        """
        manifest = release.manifest
        before = self.mark_of(name)
        if before is not None:
            require_later(before, release)
        mark = InstalledMark(
            name=manifest.name,
            version=manifest.version,
            digest=hashlib.sha256(release.raw).hexdigest(),
            tenants=tenants,
        )
        place = self._place(name, mark)
        new = place.with_name(f".{place.name}.{os.getpid()}")
        try:
            unpack(release, new)
            read = self.checked(new / FILES, tenants=tenants)
            shutil.rmtree(place, ignore_errors=True)
            new.rename(place)
        finally:
            shutil.rmtree(new, ignore_errors=True)
            with suppress(OSError):
                place.parent.rmdir()
        _replace(place.parent / MARK, mark.model_dump_json(indent=2).encode() + b"\n")
        self._tidy(place)
        return InstalledAgent(mark, read)

    def uninstall(self, name: str) -> bool:
        """Remove it. Returns whether it was there. Raises `ReleaseRefused` and `OSError`."""
        folder = self._folder_of(name)
        if not (folder / MARK).is_file():
            return False
        (folder / MARK).unlink()
        shutil.rmtree(folder)
        return True

    def _place(self, name: str, mark: InstalledMark) -> Path:
        return self._folder_of(name) / mark.digest[:16]

    def _folder_of(self, name: str) -> Path:
        """Raises `ReleaseRefused` for what is no agent's name, but could lead elsewhere."""
        if not re.fullmatch(AGENT_NAME, name):
            raise ReleaseRefused(
                f"{foreign(name)}: an agent's name has small letters, digits, and `.`, `_`, `-` "
                "between them"
            )
        return self.folder / name

    def _tidy(self, place: Path) -> None:
        """Remove the versions of before."""
        for other in place.parent.iterdir():
            if other.is_dir() and other != place:
                shutil.rmtree(other, ignore_errors=True)

    def _opened(self, place: Path) -> Release:
        """The unpacked release as it was signed. Raises `ReleaseRefused` and `OSError`."""
        line = _bytes(place / HEADER, HEADER_MAX_BYTES)
        envelope, manifest = read_header(line, self._publishers)
        expected = {file.path: file for file in manifest.files}
        there = set(_paths(place / FILES, most=len(expected)))
        if there != set(expected):
            odd = sorted(there.symmetric_difference(expected))[0]
            raise ReleaseRefused(f"{odd} was added or removed after it was installed")
        contents: dict[str, ReleasedContent] = {}
        for path, file in expected.items():
            raw = _bytes(place / FILES / path, file.bytes)
            check_file(file, raw)
            if bool((place / FILES / path).stat().st_mode & 0o100) != file.is_executable:
                raise ReleaseRefused(f"{path}: its mode was changed after it was installed")
            contents[path] = ReleasedContent(raw, file.is_executable)
        return Release(manifest, envelope, contents)


def require_later(before: InstalledMark, release: Release) -> None:
    """Raises `ReleaseRefused` unless the release may take the place of what is installed."""
    manifest = release.manifest
    if before.name != manifest.name:
        raise ReleaseRefused(f"{before.name} is installed under this name; choose another (--as)")
    then, now = version_key(before.version), version_key(manifest.version)
    if then is not None and now is not None and now < then:
        raise ReleaseRefused(
            f"{before.version} is installed, and {manifest.version} is older. To go back, "
            "uninstall it first"
        )
    if then == now and hashlib.sha256(release.raw).hexdigest() != before.digest:
        raise ReleaseRefused(f"another release is installed as {before.name} {before.version}")


def read_release(release: Release) -> AgentProfile:
    """The profile in a release, as it was published.

    Raises `ProfileRefused` and `OSError`.
    """
    with tempfile.TemporaryDirectory() as made:
        unpack(release, Path(made))
        return read_with_bundles(Path(made) / FILES).profiles[PROFILE]


def unpack(release: Release, place: Path) -> None:
    """Write a release into a new folder. Raises `OSError`."""
    (place / FILES).mkdir(parents=True)
    (place / HEADER).write_bytes(release.header)
    for path, content in release.contents.items():
        file = place / FILES / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.raw)
        file.chmod(0o755 if content.is_executable else 0o644)


def _paths(folder: Path, *, most: int) -> list[str]:
    """The files below a folder. Raises `ReleaseRefused` for links and the like, and for one file
    more than expected."""
    found: list[str] = []
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(root, name)
            kind = path.lstat().st_mode
            if not (stat.S_ISDIR(kind) or stat.S_ISREG(kind)):
                raise ReleaseRefused(f"{path.relative_to(folder)} is neither a file nor a folder")
        found.extend(str(Path(root, name).relative_to(folder)) for name in files)
        if len(found) > most:
            raise ReleaseRefused("files were added after it was installed")
    return found


def _bytes(file: Path, most: int) -> bytes:
    with file.open("rb") as opened:
        return opened.read(most + 1)


def _replace(file: Path, raw: bytes) -> None:
    new = file.with_name(f".{file.name}.{os.getpid()}")
    new.write_bytes(raw)
    os.replace(new, file)
