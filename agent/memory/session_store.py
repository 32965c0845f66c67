"""Our transcripts as the Agent SDK's `SessionStore`. Passes the SDK's own conformance suite.

Listing sessions and their summaries is left out, because nothing needs it: an agent has one
conversation and is told which session to resume.
"""

from __future__ import annotations

from typing import cast

from claude_agent_sdk import SessionKey, SessionStore, SessionStoreEntry
from claude_agent_sdk.types import SessionListSubkeysKey

from agent.memory.notes import is_note
from agent.memory.transcripts import Entry, PartKey, Transcripts


class LinkedSessionStore(SessionStore):
    """Appends go to the worker; loads come from the copy kept here."""

    def __init__(self, transcripts: Transcripts, *, ends_at: str | None = None) -> None:
        """`ends_at`: entries after it are not loaded.

        The CLI can fork from an entry by itself, but not from one before a summary of its own.
        """
        self._transcripts = transcripts
        self._ends_at = ends_at

    async def append(self, key: SessionKey, entries: list[SessionStoreEntry]) -> None:
        """Raises `TranscriptNotStored`. The SDK reports it as `mirror_error`, and the turn
        continues."""
        # The SDK types an entry as a dict that has a `type`, whatever else is in it.
        await self._transcripts.append(_part(key), cast(list[Entry], entries))

    async def load(self, key: SessionKey) -> list[SessionStoreEntry] | None:
        entries = self._transcripts.entries(_part(key)) or []
        ids = [entry.get("uuid") for entry in entries]
        if self._ends_at is not None and self._ends_at in ids:
            entries = entries[: ids.index(self._ends_at) + 1]
        told = [entry for entry in entries if not is_note(entry)]
        return cast(list[SessionStoreEntry], told) or None

    async def delete(self, key: SessionKey) -> None:
        part = _part(key)
        self._transcripts.forget(part)
        if part.subpath is None:
            for subpath in self._transcripts.subpaths(part.project, part.session):
                self._transcripts.forget(part._replace(subpath=subpath))

    async def list_subkeys(self, key: SessionListSubkeysKey) -> list[str]:
        return self._transcripts.subpaths(key["project_key"], key["session_id"])


def _part(key: SessionKey) -> PartKey:
    return PartKey(key["project_key"], key["session_id"], key.get("subpath"))
