"""The files of a message as an agent gets them, whichever dialect they came in. Pure.

A file of any type is taken. Pictures and PDF documents that came inline are blocks of their own,
because models see them; everything else is a `FileBlock`, and so is a file that is named by its id.
The worker puts all of them into the workspace.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator
from typing import NamedTuple

from infra.store.files.files import FileRecord
from infra.wire.errors import RequestRefused
from infra.wire.files.kinds import PDF, PICTURES
from infra.wire.turns import DocumentBlock, FileBlock, ImageBlock

_SLICE_CHARS = 1024 * 1024
_NAME_MAX_CHARS = 1024
_MEDIA_TYPE = re.compile(r"[a-z]{1,20}/[a-z0-9.+-]{1,80}")
_URL_MAX_CHARS = 2048
_URL = re.compile(r"https?://[A-Za-z0-9.:\[\]_-]{1,255}(?:[/?#][!-~]{0,1780})?", re.ASCII)

Attached = ImageBlock | DocumentBlock | FileBlock


class InlineFile(NamedTuple):
    """A file that came with the message."""

    media_type: str
    data: str
    """Base64."""
    bytes: int
    digest: str

    def block(self, filename: str | None) -> Attached:
        """It, under its sender's name for it."""
        name = _bounded(filename)
        if self.media_type in PICTURES:
            return ImageBlock(media_type=self.media_type, data=self.data, filename=name)
        if self.media_type == PDF:
            return DocumentBlock(media_type=PDF, data=self.data, filename=name)
        return FileBlock(
            media_type=self.media_type,
            bytes=self.bytes,
            digest=self.digest,
            filename=name,
            data=self.data,
        )


def inline_file(media_type: str, data: str, param: str) -> InlineFile:
    """A file that was sent as base64, which is checked here, so that the caller gets the error and
    not the agent's model. Raises `RequestRefused`."""
    if not data:
        raise RequestRefused("The base64 data is empty.", param=param)
    total, digest = 0, hashlib.sha256()
    try:
        for piece in _decoded(data):
            total += len(piece)
            digest.update(piece)
    except (binascii.Error, ValueError):
        raise RequestRefused("The base64 data is broken.", param=param) from None
    return InlineFile(_known_form(media_type), data, total, digest.hexdigest())


def raw_file(media_type: str, content: bytes) -> InlineFile:
    """A file that was sent as it is, or is decoded already."""
    data = base64.b64encode(content).decode()
    digest = hashlib.sha256(content).hexdigest()
    return InlineFile(_known_form(media_type), data, len(content), digest)


def stored_file(record: FileRecord) -> FileBlock:
    """A file that the message names by its id."""
    return FileBlock(
        media_type=record.type,
        bytes=record.bytes,
        digest=record.digest,
        filename=record.name,
        file=record.id,
        store=record.store,
    )


def file_at_url(url: str, param: str, *, filename: str | None, are_urls_fetched: bool) -> FileBlock:
    """A file that the agent fetches, in its sandbox. Nothing is ever fetched here.

    Raises `RequestRefused` if this is switched off or the URL has another form.
    """
    if not are_urls_fetched:
        raise RequestRefused(
            "URLs are not fetched. Send the file inline, as a data: URL, or upload it to /v1/files "
            "and send its `file_id`.",
            param=param,
        )
    if not _URL.fullmatch(url):
        raise RequestRefused(
            f"The URL must begin with http:// or https://, be in ASCII, name no user, and have at "
            f"most {_URL_MAX_CHARS} characters.",
            param=param,
        )
    digest = hashlib.sha256(b"url:" + url.encode()).hexdigest()
    return FileBlock(media_type="", bytes=0, digest=digest, filename=_bounded(filename), url=url)


def _known_form(media_type: str) -> str:
    # Anything else may be a key.
    return media_type if _MEDIA_TYPE.fullmatch(media_type) else ""


def _bounded(filename: str | None) -> str | None:
    return None if filename is None else filename[:_NAME_MAX_CHARS]


def _decoded(data: str) -> Iterator[bytes]:
    """Works in slices, so that a thread that checks a large one lets others run in between."""
    if -1 < data.find("=") < len(data) - 2:
        raise ValueError
    for start in range(0, len(data), _SLICE_CHARS):
        yield binascii.a2b_base64(data[start : start + _SLICE_CHARS], strict_mode=True)
