"""The fast path: frames over pub/sub, one channel and one subscriber connection per API process.

Frames may be lost; the turn log has them all. Publishing never waits: whatever is published in a
pass of the loop is sent together in the next one, before any other command, with one flush in
progress at a time.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, aclosing
from types import TracebackType

from redis.asyncio import Redis

from infra.metrics.store import DELIVERY_SECONDS, LIVE_DROPPED
from infra.runtime.contents import Contents
from infra.runtime.logs import RatedLog
from infra.store.keys import Keys
from infra.store.server.channel import ANSWER_WITHIN_S, PING_AFTER_S, follow_primary, listen
from infra.store.server.commands import runner_of
from infra.store.server.faults import FAULTS, delays
from infra.store.turns.log import event_place
from infra.store.turns.mailbox import LiveTurn
from infra.wire.errors import AgClusterError, ContentNotOpened, MalformedMessage
from infra.wire.frames import Frame, decode_frame, join_frames
from infra.wire.ids import ReplicaId, TurnId

MAILBOX_FRAMES_MAX = 256
MAILBOX_BYTES_MAX = 1024 * 1024
_MESSAGE_BYTES_MAX = 1024 * 1024
"""Frames are joined up to this size in bytes, because a subscriber reads a message in one piece."""

log = logging.getLogger(__name__)


class LivePublisher:
    """A worker's sending side of the fast path. `contents` seals the frames, if anything does.

    `publish` never waits and never fails: frames are dropped if Redis is unavailable or the queue
    is full, and readers find the events in the turn log. `run` must be running.
    """

    dropped: int
    """The number of frames that were never sent; their relays find the events in the log."""

    def __init__(
        self,
        redis: Redis,
        keys: Keys,
        *,
        pending_max_bytes: int = 8 * 1024 * 1024,
        contents: Contents | None = None,
    ) -> None:
        self._redis = redis
        self._commands = runner_of(redis)
        self._contents = contents
        self._keys = keys
        self._pending_max_bytes = pending_max_bytes
        self._pending: defaultdict[ReplicaId, list[bytes]] = defaultdict(list)
        self._pending_bytes = 0
        self._is_ready = asyncio.Event()
        self.dropped = 0

    def publish(self, replica: ReplicaId, frame: bytes) -> None:
        """Queue an encoded frame. Returns at once.

        Beyond the limit, frames are dropped and counted.
        """
        if self._pending_bytes + len(frame) > self._pending_max_bytes:
            self.dropped += 1
            LIVE_DROPPED.inc()
            return
        if self._contents is not None:
            frame = _sealed(frame, self._contents)
        self._pending[replica].append(frame)
        self._pending_bytes += len(frame)
        self._is_ready.set()

    async def run(self) -> None:
        """Flush until cancelled. On a Redis error, the frames being sent are dropped.

        Meanwhile the pool follows the primary.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(follow_primary(self._redis))
            await self._flush_for_ever()

    async def _flush_for_ever(self) -> None:
        pauses = delays()
        while True:
            await self._is_ready.wait()
            flushed = self._take()
            try:
                await self._flush(flushed)
                pauses = delays()
            except FAULTS as error:
                lost = sum(map(len, flushed.values()))
                self.dropped += lost
                LIVE_DROPPED.inc(lost)
                log.warning("%d live frames not published: %s", lost, type(error).__name__)
                await asyncio.sleep(next(pauses))

    def _take(self) -> dict[ReplicaId, list[bytes]]:
        taken = dict(self._pending)
        self._pending.clear()
        self._pending_bytes = 0
        self._is_ready.clear()
        return taken

    async def _flush(self, flushed: dict[ReplicaId, list[bytes]]) -> None:
        await self._commands.run_first(
            [
                ("PUBLISH", self._keys.replica_channel(replica), join_frames(some))
                for replica, frames in flushed.items()
                for some in _chunks(frames)
            ]
        )


class AttachedMailbox(AbstractContextManager[LiveTurn]):
    """A mailbox that gets a turn's frames while the block runs. (There is one for each open answer,
    and a generator would take three times the memory.)"""

    __slots__ = ("_attached", "_mailbox", "_turn")

    def __init__(
        self,
        attached: defaultdict[TurnId, list[LiveTurn]],
        turn: TurnId,
        mailbox: LiveTurn,
    ) -> None:
        self._attached = attached
        self._turn = turn
        self._mailbox = mailbox

    def __enter__(self) -> LiveTurn:
        self._attached[self._turn].append(self._mailbox)
        return self._mailbox

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.detach()

    def detach(self) -> None:
        """No more frames. Harmless if it was done before."""
        self._mailbox.close()
        mailboxes = self._attached.get(self._turn, [])
        if self._mailbox in mailboxes:
            mailboxes.remove(self._mailbox)
            if not mailboxes:
                del self._attached[self._turn]


class LiveSubscriber:
    """An API replica's receiving side of the fast path: one SUBSCRIBE for the process.

    `run` must be running. It reconnects on its own, and after each reconnect every mailbox counts
    as overflowed, so no loss goes unnoticed. Mailboxes are bounded; a slow relay loses frames, not
    memory.
    """

    def __init__(
        self,
        redis: Redis,
        keys: Keys,
        replica: ReplicaId,
        *,
        frames_max: int = MAILBOX_FRAMES_MAX,
        bytes_max: int = MAILBOX_BYTES_MAX,
        ping_after_s: float = PING_AFTER_S,
        answer_within_s: float = ANSWER_WITHIN_S,
        contents: Contents | None = None,
    ) -> None:
        self._contents = contents
        self._redis = redis
        self._channel = keys.replica_channel(replica)
        self._frames_max = frames_max
        self._bytes_max = bytes_max
        self._ping_after_s = ping_after_s
        self._answer_within_s = answer_within_s
        self._mailboxes: defaultdict[TurnId, list[LiveTurn]] = defaultdict(list)
        self._log = RatedLog(log)
        self.subscribed = asyncio.Event()
        """Set when the first subscription is active. Earlier frames are only in the log."""

    async def run(self) -> None:
        """Receive until cancelled. Reconnects on its own, then wakes every mailbox as overflowed.

        Meanwhile the pool follows the primary.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(follow_primary(self._redis))
            await self._receive_for_ever()

    async def _receive_for_ever(self) -> None:
        subscription = listen(
            self._redis,
            self._channel,
            purpose="live",
            ping_after_s=self._ping_after_s,
            answer_within_s=self._answer_within_s,
        )
        async with aclosing(subscription) as messages:
            async for message in messages:
                if message is None:
                    self.subscribed.set()
                    self._overflow_all()
                else:
                    with DELIVERY_SECONDS.time():
                        self._deliver(message)

    def attach(self, turn: TurnId) -> AttachedMailbox:
        """In its block, the mailbox gets frames of this turn. Several relays may attach."""
        mailbox = LiveTurn(frames_max=self._frames_max, bytes_max=self._bytes_max)
        return AttachedMailbox(self._mailboxes, turn, mailbox)

    def _deliver(self, message: bytes) -> None:
        """Distribute the frames of a message, which belong to many turns: a bad frame only affects
        its own turn, and each turn gets all its frames at once."""
        arrived: defaultdict[TurnId, list[Frame]] = defaultdict(list)
        for line in message.split(b"\n"):
            try:
                frame = decode_frame(line)
                if frame.turn in self._mailboxes:
                    opened = _opened(frame, self._contents) if self._contents else frame
                    arrived[frame.turn].append(opened)
            except (MalformedMessage, ContentNotOpened) as error:
                self._skip(line, error)
        for turn, frames in arrived.items():
            for mailbox in self._mailboxes.get(turn, ()):
                mailbox.deliver(frames)

    def _skip(self, line: bytes, error: AgClusterError) -> None:
        """If the frame names its turn, that turn reads the log, which has the valid events."""
        self._log.warning("live frame skipped: %s", error)
        named = TurnId(line.partition(b" ")[0].decode("ascii", "replace"))
        for mailbox in self._mailboxes.get(named, ()):
            mailbox.overflow()

    def _overflow_all(self) -> None:
        for mailboxes in self._mailboxes.values():
            for mailbox in mailboxes:
                mailbox.overflow()


def _sealed(line: bytes, contents: Contents) -> bytes:
    frame = decode_frame(line)
    place = event_place(frame.turn, frame.n, frame.payload)
    return frame._replace(payload=contents.seal_event(frame.payload, place)).encode()


def _opened(frame: Frame, contents: Contents) -> Frame:
    place = event_place(frame.turn, frame.n, frame.payload)
    return frame._replace(payload=contents.open_event(frame.payload, place))


def _chunks(frames: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    start = size = 0
    for i, frame in enumerate(frames):
        if size and size + len(frame) > _MESSAGE_BYTES_MAX:
            yield frames[start:i]
            start, size = i, 0
        size += len(frame)
    yield frames[start:]
