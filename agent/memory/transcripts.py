"""The transcripts of the SDK's sessions: a copy here, and the entries on their way to the worker.

The agent cannot reach the store, so new entries travel over the link, one message at a time, and
are kept until the worker confirms that they are stored. A new link gets unconfirmed ones again. The
copy here is used to resume a session after its CLI was killed or has to be reopened.

This module does not know the SDK: entries are opaque except for their `uuid`.
`agent.memory.session_store` is the SDK's view of it, `agent.server` the link's.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from infra.wire.link import Transcript, TranscriptAppend, TranscriptPart

log = logging.getLogger(__name__)

KEPT_MAX_BYTES = 52 * 1024 * 1024
"""A session whose transcript grows beyond this is not kept and cannot be resumed from here. The
limit is larger than any store's, so that the store gives up first, says so, and never has less than
we have."""

STORE_TIMEOUT_S = 3.0
"""How long an append waits for the worker, in seconds. The SDK holds back a turn's result until
then, so this is less than the grace time of an interrupted turn."""

BATCH_MAX_BYTES = 1024 * 1024
"""A message is sent when it has grown to this size; a single entry may be larger."""

BATCH_MAX_ENTRIES = 1000
"""A message is also sent when it has this many entries. A worker accepts four times as many."""

DEPTH_MAX = 100
"""Values nested deeper than this could be written here, but not be read when they come back."""

LEFT_OUT = "[Left out here: nested too deeply]"

Entry = dict[str, Any]
"""A line of a transcript: the CLI's own format."""

Send = Callable[[TranscriptAppend], None]


class TranscriptNotStored(TimeoutError):
    """The worker did not confirm in time that entries are stored. They are kept and sent again.

    It is a `TimeoutError`, because the SDK would retry any other error three times.
    """


class PartKey(NamedTuple):
    """Names one transcript: a session's own, or that of one of its sub-agents."""

    project: str
    session: str
    subpath: str | None = None


@dataclass
class _Part:
    entries: list[Entry] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    size_bytes: int = 0


class _Unsent(NamedTuple):
    key: PartKey
    entry: Entry
    size_bytes: int


class Transcripts:
    """All transcripts of this process, and their entries on the way to the worker."""

    def __init__(
        self, *, max_bytes: int = KEPT_MAX_BYTES, timeout_s: float = STORE_TIMEOUT_S
    ) -> None:
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._parts: dict[PartKey, _Part] = {}
        self._given_up: set[tuple[str, str]] = set()
        self._unsent: deque[_Unsent] = deque()
        self._flight: TranscriptAppend | None = None
        self._seq = 0
        self._queued = 0
        self._stored = 0
        self._is_late = False
        self._moved = asyncio.Event()
        self._send: Send | None = None

    # What is kept

    def entries(self, key: PartKey) -> list[Entry] | None:
        """All entries in order, including unconfirmed ones; None for an unknown part."""
        part = self._parts.get(key)
        return list(part.entries) if part else None

    def subpaths(self, project: str, session: str) -> list[str]:
        """The sub-agents of a session that have a transcript."""
        return [
            key.subpath
            for key in self._parts
            if key.subpath is not None and (key.project, key.session) == (project, session)
        ]

    def has(self, key: PartKey, id: str) -> bool:
        """Whether there is an entry with that uuid."""
        return id in part.ids if (part := self._parts.get(key)) else False

    def last_id(self, key: PartKey) -> str | None:
        """The uuid of the newest entry that has one."""
        entries = part.entries if (part := self._parts.get(key)) else []
        return next((id for entry in reversed(entries) if (id := _id_of(entry))), None)

    def is_given_up(self, project: str, session: str) -> bool:
        """Whether the session has become too long to be kept."""
        return (project, session) in self._given_up

    def add(self, key: PartKey, entries: Iterable[Entry]) -> None:
        """Keep entries and queue them for the worker, without waiting. Duplicates are left out."""
        if self.is_given_up(key.project, key.session):
            return
        for fresh in self._keep(key, entries):
            self._unsent.append(fresh)
            self._queued += 1
        self._bound(key)
        self._send_next()

    def adopt(self, project: str, transcript: Transcript) -> None:
        """Take over what the worker's store has of a session."""
        for part in transcript.parts:
            self._keep(PartKey(project, transcript.sdk_session, part.subpath), part.entries)

    def forget_but(self, project: str, session: str) -> None:
        """Keep only that session, because no other can be asked for any longer."""
        for key in [key for key in self._parts if (key.project, key.session) != (project, session)]:
            self.forget(key)

    def forget(self, key: PartKey) -> None:
        """Drop a part, including its unsent entries."""
        self._parts.pop(key, None)
        left = deque(unsent for unsent in self._unsent if unsent.key != key)
        self._stored += len(self._unsent) - len(left)
        self._unsent = left
        self._tell()

    async def append(self, key: PartKey, entries: Iterable[Entry]) -> None:
        """`add`, then wait until the worker has stored everything.

        Raises `TranscriptNotStored` if that takes too long. From then on nobody waits until the
        worker has caught up, so that a turn is held back once, not once per entry.
        """
        self.add(key, entries)
        if self._is_late:
            return
        target = self._queued
        try:
            async with asyncio.timeout(self._timeout_s):
                while self._stored < target:
                    await self._moved.wait()
        except TimeoutError as error:
            self._is_late = True
            raise TranscriptNotStored(
                f"{target - self._stored} entries of the transcript are not stored yet"
            ) from error

    # The link

    def attach(self, send: Send) -> None:
        """Send to this worker from now on, starting with what the previous one did not confirm."""
        self._send = send
        if self._flight is not None:
            send(self._flight)
        self._send_next()

    def detach(self, send: Send) -> None:
        """Stop sending to this worker, if it is still the attached one."""
        if self._send == send:
            self._send = None

    def stored(self, seq: int) -> None:
        """The worker has stored that message. A late confirmation is harmless."""
        if self._flight is None or self._flight.seq != seq:
            return
        self._stored += len(self._flight.part.entries)
        self._flight = None
        self._send_next()
        if self._is_late and self._stored == self._queued:
            self._is_late = False
            log.info("all of the transcript is stored again")
        self._tell()

    # Inside

    def _keep(self, key: PartKey, entries: Iterable[Entry]) -> list[_Unsent]:
        """The entries that are new."""
        fresh: list[_Unsent] = []
        for entry in entries:
            part = self._parts.setdefault(key, _Part())
            id = _id_of(entry)
            if id is not None and id in part.ids:
                continue
            kept, size = _writable(entry)
            part.entries.append(kept)
            part.size_bytes += size
            if id is not None:
                part.ids.add(id)
            fresh.append(_Unsent(key, kept, size))
        return fresh

    def _bound(self, key: PartKey) -> None:
        """Give up a session that is too long: a transcript with a gap would be worse."""
        of_session = [k for k in self._parts if k[:2] == key[:2]]
        if sum(self._parts[k].size_bytes for k in of_session) <= self._max_bytes:
            return
        log.warning("the transcript of session %s is too long to be kept", key.session)
        self._given_up.add((key.project, key.session))
        for k in of_session:
            self.forget(k)

    def _send_next(self) -> None:
        """Send the next message, if there is one and none is unconfirmed."""
        if self._send is None or self._flight is not None or not self._unsent:
            return
        key, size = self._unsent[0].key, 0
        entries: list[Entry] = []
        while self._unsent and self._unsent[0].key == key and size < BATCH_MAX_BYTES:
            if len(entries) == BATCH_MAX_ENTRIES:
                break
            unsent = self._unsent.popleft()
            entries.append(unsent.entry)
            size += unsent.size_bytes
        self._seq += 1
        part = TranscriptPart(subpath=key.subpath, entries=tuple(entries))
        self._flight = TranscriptAppend(seq=self._seq, sdk_session=key.session, part=part)
        self._send(self._flight)

    def _tell(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()


def _id_of(entry: Entry) -> str | None:
    id = entry.get("uuid")
    return id if isinstance(id, str) else None


def _writable(entry: Entry) -> tuple[Entry, int]:
    """The entry in a form that can be written and read again, and its size.

    Other entries would break every link they are sent over, and end the agent.
    """
    try:
        written = _written(entry)
        # The nesting cannot be deeper than the number of brackets.
        if written.count("{") + written.count("[") <= DEPTH_MAX:
            return entry, len(written)
    except (RecursionError, TypeError, ValueError):
        pass
    kept: Entry = _shallow(entry, DEPTH_MAX)
    return kept, len(_written(kept))


def _written(entry: Entry) -> str:
    return json.dumps(entry, separators=(",", ":"), allow_nan=False)


def _shallow(value: Any, depth: int) -> Any:
    """The value without anything that is not JSON or is nested too deep."""
    match value:
        case dict() if depth:
            return {str(key): _shallow(within, depth - 1) for key, within in value.items()}
        case list() | tuple() if depth:
            return [_shallow(within, depth - 1) for within in value]
        case dict() | list() | tuple():
            return LEFT_OUT
        case float() if not math.isfinite(value):
            return None
        case None | bool() | int() | float() | str():
            return value
    return str(value)
