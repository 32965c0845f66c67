"""Transcript entries as a worker hands them to the store: raw JSON, with their names beside."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from infra.store.conversations.transcripts import RawEntry, RawPart
from infra.wire.link import TranscriptPart


def raw_part(entries: Iterable[Mapping[str, Any]], subpath: str | None = None) -> RawPart:
    """The entries as the bytes an agent sends."""
    return RawPart(subpath, tuple(_raw(entry) for entry in entries))


def raw_of(part: TranscriptPart) -> RawPart:
    """The same of a part as an agent builds it."""
    return raw_part(part.entries, part.subpath)


def _raw(entry: Mapping[str, Any]) -> RawEntry:
    uuid = entry.get("uuid")
    return RawEntry(
        uuid if isinstance(uuid, str) else "", json.dumps(entry, separators=(",", ":")).encode()
    )
