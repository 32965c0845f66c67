"""What a file is, by its bytes. Pure.

What its sender says of it counts only where the bytes say nothing, and only for words: nothing is
run, opened or unpacked because of it.
"""

from __future__ import annotations

import mimetypes
import re

PDF = "application/pdf"
TEXT = "text/plain"
UNKNOWN = "application/octet-stream"
PICTURES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
"""Those that models see."""
HEAD_BYTES = 4096
"""The beginning of a file, which is enough for `media_type_of`."""

_SIGNS = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"%PDF-", PDF),
)
_MEDIA_TYPE = re.compile(r"[a-z]{1,20}/[a-z0-9.+-]{1,80}")
_LAST_CHARACTER_BYTES = 3
_ENDINGS = {
    "image/png": ".png", "image/jpeg": ".jpg", "image/gif": ".gif", "image/webp": ".webp",
    "image/svg+xml": ".svg", PDF: ".pdf", TEXT: ".txt", "text/csv": ".csv", "text/html": ".html",
    "text/markdown": ".md", "application/json": ".json", "application/zip": ".zip",
    "audio/wav": ".wav", "audio/mpeg": ".mp3",
}  # fmt: skip
"""Before what the machine's own table says, which differs between machines."""


def media_type_of(head: bytes, *, said: str = "", name: str = "") -> str:
    """The type of a file that begins with `head`.

    A type that models read natively has to be in the bytes; any other is what the sender says, or
    what the name's ending means.
    """
    if (found := _seen(head)) is not None:
        return found
    is_text = is_text_in(head)
    for told in (said.partition(";")[0].strip().lower(), mimetypes.guess_type(name)[0] or ""):
        if not _MEDIA_TYPE.fullmatch(told) or told in (UNKNOWN, PDF) or told in PICTURES:
            continue
        if told.startswith("text/") and not is_text:
            continue
        return told
    return TEXT if is_text else UNKNOWN


def ending_for(media_type: str) -> str:
    """The ending of a name for such a file, with its dot."""
    return _ENDINGS.get(media_type) or mimetypes.guess_extension(media_type) or ".bin"


def text_in(content: bytes) -> str | None:
    """The content, if it is text in UTF-8."""
    try:
        return None if b"\0" in content else content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None


def _seen(head: bytes) -> str | None:
    for sign, media_type in _SIGNS:
        if head.startswith(sign):
            return media_type
    return "image/webp" if head[:4] == b"RIFF" and head[8:12] == b"WEBP" else None


def is_text_in(head: bytes) -> bool:
    """Whether a file that begins with `head` may be text in UTF-8."""
    # The head may end inside a character.
    ends = range(_LAST_CHARACTER_BYTES + 1) if len(head) >= HEAD_BYTES else range(1)
    return any(text_in(head[: len(head) - cut]) is not None for cut in ends)
