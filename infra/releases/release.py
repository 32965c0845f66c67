"""A release: one version of an agent as one file, signed.

The first line is JSON: publisher, manifest and signature. Behind it stand the files' bytes, one
after another, in the manifest's order. Nothing is compressed and nothing can be a link, so what a
release takes is known from its length, and there is no archive to be fooled by. Only what the
signature covers is read: the signature covers the manifest, and the manifest has a digest of each
file.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from infra.releases.keys import PublisherKey, TrustedPublishers
from infra.releases.refused import ReleaseRefused
from infra.releases.versions import VERSION_MAX_CHARS, version_key
from infra.wire.text.foreign import foreign

RELEASE_MAX_BYTES = 8 * 1024 * 1024
HEADER_MAX_BYTES = 1024 * 1024
FILES_MAX = 501
PATH_MAX_CHARS = 240
PATH_MAX_DEPTH = 12
PROFILE_FILE = "agent.yaml"
"""The file with the profile; every release has it."""

PUBLISHER = r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?"
_AGENT = r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?"
_PURPOSE = b"AgCluster agent release 1\n"
_PART = re.compile(r"[A-Za-z0-9_.-][A-Za-z0-9_. +@=-]*")

ReleaseName = Annotated[str, StringConstraints(pattern=rf"^{PUBLISHER}/{_AGENT}$")]
"""The publisher and the agent: `acme/reviewer`."""
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ReleasedFile(_Part):
    """One file of a release."""

    path: Annotated[str, Field(max_length=PATH_MAX_CHARS)]
    bytes: Annotated[int, Field(ge=0, le=RELEASE_MAX_BYTES)]
    sha256: Sha256
    is_executable: bool = False


class ReleaseManifest(_Part):
    """What is signed."""

    format: Literal[1] = 1
    name: ReleaseName
    version: Annotated[str, Field(max_length=VERSION_MAX_CHARS)]
    description: Annotated[str, Field(max_length=1000)] = ""
    files: Annotated[tuple[ReleasedFile, ...], Field(max_length=FILES_MAX)]

    @property
    def publisher(self) -> str:
        return self.name.partition("/")[0]

    @property
    def agent(self) -> str:
        """The agent's name without its publisher."""
        return self.name.partition("/")[2]


class SignedHeader(_Part):
    """The first line of a release."""

    publisher: Annotated[str, StringConstraints(pattern=rf"^{PUBLISHER}$")]
    manifest: str
    signature: str


@dataclass(frozen=True)
class ReleasedContent:
    """One file's bytes."""

    raw: bytes
    is_executable: bool = False


@dataclass(frozen=True)
class Release:
    """A release whose signature and digests were checked, or that was just signed."""

    manifest: ReleaseManifest
    envelope: SignedHeader
    contents: Mapping[str, ReleasedContent]

    @property
    def header(self) -> bytes:
        """Its first line."""
        return self.envelope.model_dump_json().encode() + b"\n"

    @property
    def raw(self) -> bytes:
        """The whole file."""
        bodies = (self.contents[file.path].raw for file in self.manifest.files)
        return b"".join((self.header, *bodies))


def sign_release(
    *,
    name: str,
    version: str,
    description: str,
    contents: Mapping[str, ReleasedContent],
    key: PublisherKey,
) -> Release:
    """Make a release; the same contents make the same bytes. Raises `ReleaseRefused`."""
    try:
        manifest = ReleaseManifest(
            name=name,
            version=version,
            description=description,
            files=tuple(_described(path, contents[path]) for path in sorted(contents)),
        )
    except ValidationError as error:
        raise ReleaseRefused(f"not a release: {_first(error)}") from None
    _check(manifest)
    text = manifest.model_dump_json()
    envelope = SignedHeader(
        publisher=manifest.publisher,
        manifest=text,
        signature=key.sign(_signed(manifest.publisher, text)),
    )
    release = Release(manifest, envelope, dict(contents))
    if len(release.header) > HEADER_MAX_BYTES or len(release.raw) > RELEASE_MAX_BYTES:
        raise ReleaseRefused(f"larger than {RELEASE_MAX_BYTES // 1024**2} MB")
    return release


def open_release(raw: bytes, publishers: TrustedPublishers) -> Release:
    """The release, if one of the publishers has signed it and nothing was changed since.

    Raises `ReleaseRefused`.
    """
    if len(raw) > RELEASE_MAX_BYTES:
        raise ReleaseRefused(f"larger than {RELEASE_MAX_BYTES // 1024**2} MB")
    end = raw.find(b"\n", 0, HEADER_MAX_BYTES)
    if end < 0:
        raise ReleaseRefused("this is no release of an agent")
    envelope, manifest = read_header(raw[:end], publishers)
    return Release(manifest, envelope, _sliced(manifest, raw, start=end + 1))


def read_header(line: bytes, publishers: TrustedPublishers) -> tuple[SignedHeader, ReleaseManifest]:
    """The first line, if its signature is good. Raises `ReleaseRefused`."""
    try:
        envelope = SignedHeader.model_validate_json(line)
    except ValidationError:
        raise ReleaseRefused("this is no release of an agent, or it is not signed") from None
    if envelope.model_dump_json().encode() != line.removesuffix(b"\n"):
        raise ReleaseRefused("its first line is not written as releases' are")
    publishers.require_signed(
        envelope.publisher, envelope.signature, _signed(envelope.publisher, envelope.manifest)
    )
    try:
        manifest = ReleaseManifest.model_validate_json(envelope.manifest)
    except ValidationError as error:
        raise ReleaseRefused(
            f"not a release of this version of AgCluster: {_first(error)}"
        ) from None
    if manifest.publisher != envelope.publisher:
        raise ReleaseRefused(
            f"{envelope.publisher} has signed it, but it is called {manifest.name}"
        )
    _check(manifest)
    return envelope, manifest


def check_file(file: ReleasedFile, raw: bytes) -> None:
    """Raises `ReleaseRefused` unless these are the file's bytes."""
    if len(raw) != file.bytes or hashlib.sha256(raw).hexdigest() != file.sha256:
        raise ReleaseRefused(f"{file.path} is not the file that was signed")


def _described(path: str, content: ReleasedContent) -> ReleasedFile:
    return ReleasedFile(
        path=path,
        bytes=len(content.raw),
        sha256=hashlib.sha256(content.raw).hexdigest(),
        is_executable=content.is_executable,
    )


def _signed(publisher: str, manifest: str) -> bytes:
    """What the signature is of. The purpose keeps it from meaning anything elsewhere."""
    return _PURPOSE + publisher.encode() + b"\n" + manifest.encode()


def _sliced(manifest: ReleaseManifest, raw: bytes, *, start: int) -> dict[str, ReleasedContent]:
    contents: dict[str, ReleasedContent] = {}
    for file in manifest.files:
        body = raw[start : start + file.bytes]
        check_file(file, body)
        contents[file.path] = ReleasedContent(body, file.is_executable)
        start += file.bytes
    if start != len(raw):
        raise ReleaseRefused("the release has bytes that belong to no file")
    return contents


def _check(manifest: ReleaseManifest) -> None:
    """What the form alone does not say. A publisher may be hostile, too."""
    if version_key(manifest.version) is None or "+" in manifest.version:
        raise ReleaseRefused(
            f"{foreign(manifest.version)} is no version: write 1.2.3, or 1.2.3-beta.1"
        )
    paths = [file.path for file in manifest.files]
    if PROFILE_FILE not in paths:
        raise ReleaseRefused(f"the release has no {PROFILE_FILE}")
    if paths != sorted(set(paths)):
        raise ReleaseRefused("its files are not in order, or one stands there twice")
    folders: dict[str, str] = {}
    for path in paths:
        _check_path(path)
        parts = path.split("/")
        for depth in range(1, len(parts)):
            _require_one_spelling(folders, "/".join(parts[:depth]))
    files: dict[str, str] = {}
    for path in paths:
        _require_one_spelling(files, path)
        if path.lower() in folders:
            raise ReleaseRefused(f"{path} is a file and a folder")


def _require_one_spelling(seen: dict[str, str], path: str) -> None:
    """Some file systems take names for one that differ in capital letters only."""
    if seen.setdefault(path.lower(), path) != path:
        raise ReleaseRefused(f"{path}: two names differ in capital letters only")


def _check_path(path: str) -> None:
    parts = path.split("/")
    if len(parts) > PATH_MAX_DEPTH or len(path) > PATH_MAX_CHARS:
        raise ReleaseRefused(f"{foreign(path)}: the path is too long")
    for part in parts:
        if not _PART.fullmatch(part) or part in {".", ".."} or part.endswith((".", " ")):
            raise ReleaseRefused(
                f"{foreign(path)}: the names of a release's files have letters of English, digits "
                "and _ . - + @ = and spaces, and lead nowhere else"
            )


def _first(error: ValidationError) -> str:
    fault = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"
