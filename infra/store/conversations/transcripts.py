"""Transcripts of SDK sessions, so that a conversation can resume in a new container, days later.

Entries belong to the agent and are opaque: they are stored as JSON and returned to an agent without
being parsed. A conversation has one session, or two while a fork is being written.
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
from infra.store.conversations.leases import Lease
from infra.store.keys import Keys
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
    """One entry as JSON. `uuid` identifies it within the session; empty if it has none."""

    uuid: str
    json: bytes


class RawPart(NamedTuple):
    """New entries of one transcript: the main one, or a sub-agent's (`subpath`)."""

    subpath: str | None
    entries: Sequence[RawEntry]
    digest: str = ""
    """Identifies the message that brought them. Entries without a uuid are named by it and their
    position."""


@dataclass(frozen=True)
class StoredTranscript:
    """A session's entries as encoded JSON, by subpath ('' is the main transcript)."""

    sdk_session: str
    parts: Mapping[str, Sequence[bytes]]

    def encode(self) -> bytes:
        """An encoded `infra.wire.link.Transcript`, built without parsing an entry."""
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
    """The transcripts of conversations, stored as long as the conversation.

    An entry is stored once, however often it is appended, so an agent may send it again until it is
    confirmed. A session that grows beyond its limit is dropped as a whole, because a transcript
    with a gap would be worse than none. Writers need the lease's fence.
    """

    def __init__(
        self,
        redis: Redis,
        keys: Keys,
        *,
        max_bytes: int = MAX_BYTES,
        tenant_bytes_max: int = 0,
        contents: Contents | None = None,
    ) -> None:
        """`max_bytes` limits one session, and `tenant_bytes_max` (0: no limit) everything that its
        tenant has in Redis. A session that exceeds either is not stored at all."""
        self._redis = redis
        self._contents = contents or PlainContents()
        self._keys = keys
        self._scripts = Scripts(redis, keys)
        self._max_bytes = max_bytes
        self._tenant_bytes_max = tenant_bytes_max

    async def append(self, lease: Lease, sdk_session: str, part: RawPart) -> bool:
        """Store new entries. Entries whose `uuid` is already stored are skipped, and so are those
        of a repeated message.

        Returns False if the session is too large to be stored. Raises `LeaseLost`,
        `StoreUnavailable`, and `MalformedMessage` for names that no SDK uses (they come from inside
        a container).
        """
        return await self._append(lease, sdk_session, part, max_bytes=self._max_bytes)

    async def give_up(self, lease: Lease, sdk_session: str) -> None:
        """Drop the session and store nothing more of it, because it is too large. Raises like
        `append`."""
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
        """The entries as stored: all with a name, if their part provides one."""
        digest = part.digest and self._contents.blind(part.digest)
        return [
            RawEntry(
                entry.uuid or (digest and f"{digest}:{i}"), self._contents.seal(entry.json, place)
            )
            for i, entry in enumerate(part.entries)
        ]

    async def load(self, c: ConversationKey, sdk_session: str) -> StoredTranscript | None:
        """A whole session, in the order in which it was stored; None if nothing of it is stored.

        Also None if it was sealed with another content secret.
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
        # In pages, because one reply of 32 MiB would delay everybody else's commands.
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
