"""Names for what callers send, safe in every folder and in every shell's hands. Pure."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

from infra.wire.files.kinds import ending_for

NAME_MAX_BYTES = 180
"""In UTF-8. File systems take 255, and a name may get a few characters more."""
ENDING_MAX_BYTES = 32
TRIES = 100
"""Names that one file may be kept under, should others have the ones before."""
COMPARED = 4
"""The first of these names are compared with what has them, which means reading it."""

UPLOADS = "uploads"
"""The folder in a workspace for what callers send."""
TEXT_MAX_BYTES = 128 * 1024
"""Of a text that the model is shown at once. The agent reads a longer one where it is."""

_ALLOWED = frozenset(" ._-()[]+,@=~\u200c\u200d")
"""Beside letters, digits, marks and pictures of any script. The last two join letters."""
_KINDS = frozenset("LNM")
_RESERVED = frozenset(
    {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}
)
"""Devices, on a machine to which an agent's files may be copied."""


def safe_name(said: str | None, media_type: str) -> str:
    """The name for a file whose sender calls it so: one component, which begins with no dot or
    dash, in characters that stand for themselves."""
    last = (said or "").replace("\\", "/").rstrip("/").rpartition("/")[2]
    name = "".join(_shown(c) for c in unicodedata.normalize("NFC", last))
    name = " ".join(name.split()).strip(" .").lstrip("-~")
    if not any(unicodedata.category(c)[0] in "LN" for c in name):
        return f"{media_type.partition('/')[0] or 'file'}{ending_for(media_type)}"
    stem, dot, ending = name.rpartition(".")
    if not stem or len(ending.encode()) > ENDING_MAX_BYTES:
        stem, dot, ending = name, "", ""
    if stem.partition(".")[0].strip().lower() in _RESERVED:
        stem = f"_{stem}"
    room = NAME_MAX_BYTES - len(f"{dot}{ending}".encode())
    return f"{_cut(stem, room)}{dot}{ending}"


def names_for(name: str, digest: str) -> Iterator[str]:
    """The names to try for a file of that content, in order: the same each time."""
    yield name
    stem, dot, ending = name.rpartition(".")
    if not stem:
        stem, dot, ending = name, "", ""
    yield f"{stem}-{digest[:8]}{dot}{ending}"
    for n in range(2, TRIES):
        yield f"{stem}-{digest[:8]}-{n}{dot}{ending}"


def _shown(c: str) -> str:
    if c in _ALLOWED:
        return c
    category = unicodedata.category(c)
    if category[0] in _KINDS or category == "So":
        return c
    # Nothing that hides, turns around or ends a line.
    return "" if category[0] == "C" else "_"


def _cut(text: str, most: int) -> str:
    return text.encode()[:most].decode("utf-8", "ignore").rstrip(" .") or "_"


def file_line(path: str, size: int, media_type: str) -> str:
    """What an agent is told of a file in its workspace."""
    return f"[File: {path}, {size:,} bytes, {media_type}]"
