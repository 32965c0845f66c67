"""Reads a `TranscriptAppend` without creating objects for its contents.

Its entries belong to the agent and are opaque: each is checked to be one JSON object, and passed on
as bytes. Parsed into Python objects, a line of 32 MB would take gigabytes and seconds.
"""

from __future__ import annotations

import codecs
import hashlib
import re
from functools import cache
from typing import Any

import msgspec

from infra.store.conversations.transcripts import RawEntry, RawPart
from infra.wire.errors import MalformedMessage
from infra.wire.link import TRANSCRIPT_HEAD
from infra.wire.text.foreign import foreign

ENTRIES_MAX = 4096
"""Maximum number of entries in a message. An agent closes one at 1 MB."""
ID_MAX_CHARS = 100
_WINDOW_BYTES = 1024 * 1024

_HEAD = re.compile(
    re.escape(TRANSCRIPT_HEAD) + rb'"seq":(\d{1,15}),"sdk_session":"([A-Za-z0-9-]{1,64})",'
)


class AppendHead(msgspec.Struct, frozen=True):
    """Identifies the message."""

    seq: int
    sdk_session: str


class _Entry(msgspec.Struct):
    uuid: Any = None


class _Part(msgspec.Struct):
    entries: msgspec.Raw
    subpath: str | None = None


class _Append(msgspec.Struct):
    part: _Part


_APPEND = msgspec.json.Decoder(_Append)
_ENTRY = msgspec.json.Decoder(_Entry)


def read_head(line: bytes) -> AppendHead:
    """From a complete line, or the beginning of one. Raises `MalformedMessage`."""
    if (found := _HEAD.match(line)) is None:
        raise MalformedMessage(f"no transcript entries: {foreign(line, max_chars=60)}")
    return AppendHead(int(found[1]), found[2].decode())


def read_part(line: bytes) -> RawPart:
    """The entries of a complete line. Raises `MalformedMessage`.

    Takes at most 5 ns per byte, and no memory except for the entries.
    """
    _check_text(line)
    try:
        part = _APPEND.decode(line).part
        found = _few().decode(part.entries)
    except (msgspec.MsgspecError, RecursionError) as error:
        # Its words may quote the line.
        raise MalformedMessage(f"no transcript entries: {type(error).__name__}") from None
    entries = []
    for name in found.__struct_fields__:
        raw = getattr(found, name)
        if raw is msgspec.UNSET:
            break
        entries.append(_entry(bytes(raw)))
    has_nameless = any(not entry.uuid for entry in entries)
    return RawPart(part.subpath, tuple(entries), _digest(line) if has_nameless else "")


def _digest(line: bytes) -> str:
    """The same for a message that is sent again over a new link, whichever worker reads it."""
    return hashlib.sha256(line).hexdigest()[:16]


def _check_text(line: bytes) -> None:
    """Raises `MalformedMessage` for invalid UTF-8, because the decoder does not check skipped
    values."""
    if line.isascii():
        return
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(line), _WINDOW_BYTES):
            decoder.decode(line[start : start + _WINDOW_BYTES])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise MalformedMessage("transcript entries that are no UTF-8") from None


def _entry(raw: bytes) -> RawEntry:
    try:
        uuid = _ENTRY.decode(raw).uuid
    except msgspec.MsgspecError as error:
        raise MalformedMessage(f"no transcript entry: {type(error).__name__}") from None
    is_name = isinstance(uuid, str) and len(uuid) <= ID_MAX_CHARS
    return RawEntry(uuid if is_name else "", raw)


@cache
def _few() -> msgspec.json.Decoder[Any]:
    """Decodes a list of at most `ENTRIES_MAX` values as they are.

    It is an array of named fields, because msgspec counts the values of a list only after it has
    created an object for each: a line of `{},{},…` would take twenty times its length.
    """
    fields = [(f"e{i}", msgspec.Raw, msgspec.UNSET) for i in range(ENTRIES_MAX)]
    return msgspec.json.Decoder(
        msgspec.defstruct("_Few", fields, array_like=True, forbid_unknown_fields=True, gc=False)
    )
