"""What a `TranscriptAppend` says, read without building what is in it.

Its entries are the agent's and opaque: each is checked to be one JSON object and passed on as the
bytes it is. Parsed into Python, a line of 32 MB would take gigabytes and seconds.
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
from infra.wire.foreign import foreign
from infra.wire.link import TRANSCRIPT_HEAD

ENTRIES_MAX = 4096
"""Most entries of a message. An agent closes one at 1 MB."""
ID_MAX_CHARS = 100
_WINDOW_BYTES = 1024 * 1024

_HEAD = re.compile(
    re.escape(TRANSCRIPT_HEAD) + rb'"seq":(\d{1,15}),"sdk_session":"([A-Za-z0-9-]{1,64})",'
)


class AppendHead(msgspec.Struct, frozen=True):
    """Which message it is."""

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
    """From a whole line, or the beginning of one. Raises `MalformedMessage`."""
    if (found := _HEAD.match(line)) is None:
        raise MalformedMessage(f"no transcript entries: {foreign(line, max_chars=60)}")
    return AppendHead(int(found[1]), found[2].decode())


def read_part(line: bytes) -> RawPart:
    """The entries of a whole line. Raises `MalformedMessage`.

    Takes 5 ns a byte at worst and no memory but the entries' own.
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
    """The same for a message that is sent again over a new link, by whichever worker reads it."""
    return hashlib.sha256(line).hexdigest()[:16]


def _check_text(line: bytes) -> None:
    """Raises `MalformedMessage` for what is no UTF-8: values that are passed over are not looked at
    by the decoder."""
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

    An array of named fields, since msgspec counts the values of a list after it has made an object
    of each: a line of `{},{},…` would take twenty times its length.
    """
    fields = [(f"e{i}", msgspec.Raw, msgspec.UNSET) for i in range(ENTRIES_MAX)]
    return msgspec.json.Decoder(
        msgspec.defstruct("_Few", fields, array_like=True, forbid_unknown_fields=True, gc=False)
    )
