"""Transcripts of SDK sessions, so that a conversation resumes on a fresh container, days later.

Entries are the agent's and opaque: they are kept as the JSON they are, and go back to an agent
without being parsed again. A conversation has one session; while a fork is on its way, two.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from redis.asyncio import Redis

from infra.runtime.contents import Contents, PlainContents
from infra.runtime.logs import fields as about
from infra.store.keys import Keys
from infra.store.leases import Lease
from infra.store.server.calls import Call
from infra.store.server.connection import translate
from infra.store.server.replies import Answer
from infra.store.server.scripts import Scripts
from infra.wire.errors import ContentNotOpened, LeaseLost, MalformedMessage
from infra.wire.ids import ConversationKey, Fence, WorkerId

log = logging.getLogger(__name__)

MAX_BYTES = 32 * 1024 * 1024

_PAGE_ENTRIES = 500
_SESSION = re.compile(r"[A-Za-z0-9-]{1,64}")
_SUBPATH = re.compile(r"[^\x00-\x1f\x7f]{0,200}")


class RawEntry(NamedTuple):
    """One entry as the JSON it is; `uuid` is its name among the session's, empty if it has none."""

    uuid: str
    json: bytes


class RawPart(NamedTuple):
    """New entries of one transcript: the main one, or a sub-agent's (`subpath`)."""

    subpath: str | None
    entries: Sequence[RawEntry]
    digest: str = ""
    """Of the message they came in. It names those that have no name, by their places in it."""


@dataclass(frozen=True)
class StoredTranscript:
    """A session's entries as encoded JSON, by subpath ('' is the main transcript)."""

    sdk_session: str
    parts: Mapping[str, Sequence[bytes]]

    def encode(self) -> bytes:
        """An `infra.wire.link.Transcript`, put together without parsing an entry."""
        parts = b",".join(
            b'{%b"entries":[%b]}' % (_subpath(path), b",".join(entries))
            for path, entries in self.parts.items()
        )
        return b'{"sdk_session":"%b","parts":[%b]}' % (self.sdk_session.encode(), parts)


class TranscriptAppendAnswer(Answer, frozen=True):
    outcome: Literal["ok", "full", "lost"]


class TranscriptAppendCall(Call[TranscriptAppendAnswer], frozen=True):
    conversation: ConversationKey
    worker: WorkerId
    fence: Fence
    sdk_session: str
    subpath: str
    session_bytes_max: int
    tenant_bytes_max: int
    entries: Sequence[RawEntry]


class TranscriptStore:
    def __init__(
        self,
        redis: Redis,
        keys: Keys,
        *,
        max_bytes: int = MAX_BYTES,
        tenant_bytes_max: int = 0,
        contents: Contents | None = None,
    ) -> None:
        """`max_bytes` bounds one session, and `tenant_bytes_max` (0: nothing) what its tenant holds
        in all; one that grows beyond either is not kept at all.
        """
        self._redis = redis
        self._contents = contents or PlainContents()
        self._keys = keys
        self._scripts = Scripts(redis, keys)
        self._max_bytes = max_bytes
        self._tenant_bytes_max = tenant_bytes_max

    async def append(self, lease: Lease, sdk_session: str, part: RawPart) -> bool:
        """Keep new entries; those whose `uuid` is there are skipped, and those of a message that is
        stored again.

        False when the session is too large to keep. Raises `LeaseLost`, `StoreUnavailable`, and
        `MalformedMessage` for names that no SDK gives (they come from inside a container).
        """
        return await self._append(lease, sdk_session, part, max_bytes=self._max_bytes)

    async def give_up(self, lease: Lease, sdk_session: str) -> None:
        """Keep nothing of the session any more: it is too large. Raises as `append` does."""
        nothing = RawPart(None, [RawEntry("", b"{}")])
        await self._append(lease, sdk_session, nothing, max_bytes=0)

    async def _append(
        self, lease: Lease, sdk_session: str, part: RawPart, *, max_bytes: int
    ) -> bool:
        c, subpath = lease.conversation, part.subpath or ""
        if not _SESSION.fullmatch(sdk_session) or not _SUBPATH.fullmatch(subpath):
            raise MalformedMessage("not the name of a transcript")
        answer = await self._scripts.run(
            TranscriptAppendCall(
                conversation=c,
                worker=lease.worker,
                fence=lease.fence,
                sdk_session=sdk_session,
                subpath=subpath,
                session_bytes_max=max_bytes,
                tenant_bytes_max=self._tenant_bytes_max,
                entries=self._kept(part, _place(c, sdk_session)),
            ),
            conversation=self._keys.conversation(c),
            transcripts=self._keys.transcripts(c),
            transcript=self._keys.transcript(c, sdk_session),
            transcript_seen=self._keys.transcript_seen(c, sdk_session),
        )
        if answer.outcome == "lost":
            raise LeaseLost(c, lease.fence)
        return answer.outcome == "ok"

    def _kept(self, part: RawPart, place: str) -> list[RawEntry]:
        """The entries as they are kept: all with a name, if their part gives them one."""
        digest = part.digest and self._contents.blind(part.digest)
        return [
            RawEntry(
                entry.uuid or (digest and f"{digest}:{i}"), self._contents.seal(entry.json, place)
            )
            for i, entry in enumerate(part.entries)
        ]

    async def load(self, c: ConversationKey, sdk_session: str) -> StoredTranscript | None:
        """All of a session, in the order it was kept; None when nothing of it is kept.

        What another content secret sealed is as good as nothing.
        """
        parts: dict[str, list[bytes]] = {}
        async for stored in self._entries(self._keys.transcript(c, sdk_session)):
            subpath, _, entry = stored.partition(b"\n")
            try:
                opened = self._contents.open(entry, _place(c, sdk_session))
            except ContentNotOpened as error:
                log.warning("transcript not opened: %s", error, extra=about(conversation=c))
                return None
            parts.setdefault(subpath.decode(), []).append(opened)
        return StoredTranscript(sdk_session, parts) if parts else None

    async def _entries(self, name: str) -> AsyncIterator[bytes]:
        # In pages: one reply of 32 MiB would hold up everybody else's commands.
        first = 0
        while True:
            with translate():
                page: list[bytes] = await self._redis.lrange(  # type: ignore[misc]
                    name, first, first + _PAGE_ENTRIES - 1
                )
            for stored in page:
                yield stored
            if len(page) < _PAGE_ENTRIES:
                return
            first += len(page)


def _place(c: ConversationKey, sdk_session: str) -> str:
    return f"transcript {c} {sdk_session}"


def _subpath(path: str) -> bytes:
    return b'"subpath":%b,' % json.dumps(path).encode() if path else b""
