"""Our transcripts as the Agent SDK's `SessionStore`; it passes the SDK's own conformance suite.

Left out, because nothing asks for it here: listing sessions and their summaries. An agent has one
conversation, and is told which session to resume.
"""

from __future__ import annotations

from typing import cast

from claude_agent_sdk import SessionKey, SessionStore, SessionStoreEntry
from claude_agent_sdk.types import SessionListSubkeysKey

from agent.transcripts import Entry, PartKey, Transcripts


class LinkedSessionStore(SessionStore):
    """Appends go to the worker, loads come from the copy kept here."""

    def __init__(self, transcripts: Transcripts) -> None:
        self._transcripts = transcripts

    async def append(self, key: SessionKey, entries: list[SessionStoreEntry]) -> None:
        """Raises `TranscriptNotStored`; the SDK tells it as `mirror_error`, the turn goes on."""
        # The SDK types an entry as a dict that has a `type`, whatever else is in it.
        await self._transcripts.append(_part(key), cast(list[Entry], entries))

    async def load(self, key: SessionKey) -> list[SessionStoreEntry] | None:
        return cast(list[SessionStoreEntry] | None, self._transcripts.entries(_part(key)))

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
