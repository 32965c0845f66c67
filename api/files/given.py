"""Files that a message names by id, loaded so that they can be given to a model.

What a file is, its first bytes say; what its sender said of it counts only for text. A client
resends its history, and so names the same files with each message; each is loaded once a request.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from api.files.stored_files import StoredFiles
from api.http.auth import Caller
from infra.store.files.files import FileRecord
from infra.wire.errors import ErrorCode, FileGone, FileNotKept, RequestRefused

PDF = "application/pdf"
TEXT = "text/plain"
UNKNOWN = "application/octet-stream"
HELD_PER_BYTE = 5
"""Bytes of memory that a byte of a file takes until its turn is submitted: as it is, in base64, and
twice in what is written to Redis."""
_SIGNS = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"%PDF-", PDF),
)


@dataclass(frozen=True)
class GivenFile:
    """A file of the caller's, with its bytes."""

    name: str
    media_type: str
    data: str
    """Base64."""


async def load_files(
    ids: Iterable[str],
    caller: Caller,
    stored: StoredFiles,
    *,
    max_bytes: int,
    hold: Callable[[int], None],
) -> Mapping[str, GivenFile]:
    """Those of the files that there are, by id. `hold` is told their bytes before they are read.

    Raises `RequestRefused` if they are together too large for a message, or kept where we cannot
    read them.
    """
    records = dict[str, FileRecord]()
    for id in ids:
        with suppress(FileNotKept):
            records[id] = await stored.find(id, caller)
    total = sum(record.bytes for record in records.values())
    if total > max_bytes:
        raise RequestRefused(
            f"The files that the messages name have more than {max_bytes} bytes together.",
            code=ErrorCode.BODY_TOO_LARGE,
        )
    hold(total)
    found = dict[str, GivenFile]()
    for id, record in records.items():
        read = await stored.reader(record)
        with suppress(FileGone):
            content = b"".join([piece async for piece in read(0, record.bytes)])
            data = base64.b64encode(content).decode("ascii")
            found[id] = GivenFile(record.name, media_type_of(content), data)
    return found


def media_type_of(content: bytes) -> str:
    """By what it is."""
    for sign, media_type in _SIGNS:
        if content.startswith(sign):
            return media_type
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    try:
        content.decode()
    except UnicodeDecodeError:
        return UNKNOWN
    return UNKNOWN if b"\0" in content else TEXT
