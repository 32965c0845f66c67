"""Which files a conversation's agent has made: their paths in its workspace, by their ids.

The files themselves are on record like any other (`infra.store.files.files`). A path may be there
several times, as it was at the ends of several turns. Deleting the conversation lets them all go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from redis.asyncio import Redis

from infra.runtime.contents import Contents, PlainContents
from infra.store.files.calls import NoteMadeCall
from infra.store.keys import Keys
from infra.store.server.connection import translate
from infra.store.server.replies import text
from infra.store.server.scripts import Scripts
from infra.wire.errors import ContentNotOpened
from infra.wire.ids import ConversationKey, FileId

MADE_MAX = 1000
"""Files of one conversation. When it makes more, its oldest go."""
LONGER_S = 3600.0
"""The list outlives its files by this."""


@dataclass(frozen=True)
class NotedFile:
    """A file and its path in the workspace."""

    file: FileId
    path: str


class MadeRecords:
    """See the module. All methods raise `StoreUnavailable`."""

    def __init__(self, redis: Redis, keys: Keys, *, contents: Contents | None = None) -> None:
        self._redis = redis
        self._keys = keys
        self._scripts = Scripts(redis, keys)
        self._contents = contents or PlainContents()

    async def note(self, c: ConversationKey, file: FileId, path: str, *, life_s: float) -> bool:
        """A file on record is about to be kept. False if the conversation is gone: then it must not
        be."""
        answer = await self._scripts.run(
            NoteMadeCall(
                file=file,
                path=self._contents.seal(path.encode(), _place(file)),
                most=MADE_MAX,
                life_ms=round((life_s + LONGER_S) * 1000),
            ),
            conversation=self._keys.conversation(c),
            conversation_made=self._keys.conversation_made(c),
        )
        return answer.outcome == "ok"

    async def of(self, c: ConversationKey) -> Sequence[NotedFile]:
        """All of them that were noted, the oldest first. Some may be gone, or never have been
        kept."""
        with translate():
            held = await self._redis.hgetall(self._keys.conversation_made(c))  # type: ignore[misc]
        noted = sorted((text(file), path) for file, path in held.items())
        return [NotedFile(FileId(file), self._path(file, path)) for file, path in noted]

    def _path(self, file: str, kept: bytes) -> str:
        try:
            return self._contents.open(kept, _place(file)).decode()
        except ContentNotOpened:
            # Files outlive content secrets. Only the path is lost with an old one.
            return file


def _place(file: str) -> str:
    return f"path of {file}"
