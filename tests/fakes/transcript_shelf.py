"""The worker's store of transcripts, in memory, with the store's semantics.

One session at a time: the first entry of another session replaces all. Entries that have a `uuid`
are stored once.
"""

from __future__ import annotations

from typing import Any

from infra.wire.link import Transcript, TranscriptAppend, TranscriptPart


class TranscriptShelf:
    """What a worker has stored of one conversation."""

    def __init__(self) -> None:
        self.session: str | None = None
        self._parts: dict[str | None, list[dict[str, Any]]] = {}

    def put(self, message: TranscriptAppend) -> None:
        """Store the entries of a message."""
        if message.sdk_session != self.session:
            self.session = message.sdk_session
            self._parts.clear()
        part = self._parts.setdefault(message.part.subpath, [])
        known = {entry["uuid"] for entry in part if "uuid" in entry}
        part.extend(entry for entry in message.part.entries if entry.get("uuid") not in known)

    def transcript(self) -> Transcript:
        """All of it, as a worker gives it to an agent that has to resume it."""
        assert self.session is not None, "nothing has been stored"
        return Transcript(
            sdk_session=self.session,
            parts=tuple(
                TranscriptPart(subpath=subpath, entries=tuple(entries))
                for subpath, entries in self._parts.items()
            ),
        )

    def entries(self, subpath: str | None = None) -> list[dict[str, Any]]:
        """The entries of one part."""
        return self._parts.get(subpath, [])
