"""The fast path: frames over pub/sub, one channel and one subscriber connection per API process
(D1).

Lossy by nature; the turn log makes up for it. Publishing never waits: what is ready goes out joined
at the end of the loop pass, one flush per channel under way at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from redis.asyncio import Redis

from infra.store.keys import Keys
from infra.wire.frames import Frame
from infra.wire.ids import ReplicaId, TurnId


class LivePublisher:
    """A worker's sending side."""

    def __init__(
        self, redis: Redis, keys: Keys, *, pending_max_bytes: int = 8 * 1024 * 1024
    ) -> None: ...

    def publish(self, replica: ReplicaId, frame: bytes) -> None:
        """Queue an encoded frame; returns at once.

        Beyond the bound frames are dropped and counted.
        """
        raise NotImplementedError

    async def run(self) -> None:
        """Flush until cancelled; a Redis fault drops what was under way and goes on."""
        raise NotImplementedError


class LiveTurn:
    """One relay's bounded mailbox of live frames."""

    overflowed: bool
    """Frames were dropped since the last `take`: read the log."""

    async def wait(self, timeout_s: float) -> bool:
        """Until a frame is there; False after `timeout_s` of silence."""
        raise NotImplementedError

    def take(self) -> list[Frame]:
        """All frames that wait, in order of arrival."""
        raise NotImplementedError


class LiveSubscriber:
    """An API replica's receiving side: one SUBSCRIBE for the process."""

    def __init__(self, redis: Redis, keys: Keys, replica: ReplicaId) -> None: ...

    async def run(self) -> None:
        """Receive until cancelled; reconnects by itself, then wakes every mailbox as overflowed."""
        raise NotImplementedError

    @contextmanager
    def attach(self, turn: TurnId) -> Iterator[LiveTurn]:
        """Frames of this turn go to the mailbox until the block ends. Several relays may attach."""
        raise NotImplementedError
        yield
