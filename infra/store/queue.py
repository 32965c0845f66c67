"""Placement: arq with a doorbell (D2). A job is `claim(turn_id)`, takes milliseconds and runs no
turn.

The enqueue writes the job record, the queue entry and the bell in one MULTI; a worker waits in
BLPOP on the bell instead of polling, with a safety scan every few seconds.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from redis.asyncio import Redis

from infra.store.keys import Keys
from infra.wire.ids import TurnId, WorkerId


class PlacementQueue:
    def __init__(self, redis: Redis, keys: Keys) -> None: ...

    async def enqueue(self, turn: TurnId, owner: WorkerId | None) -> None:
        """Hint that a turn waits: to its conversation's owner, else to whoever has room.

        Raises `StoreUnavailable`; the sweeper makes up for a lost hint.
        """
        raise NotImplementedError


class PlacementWorker:
    """Both queues of one worker process: the shared one and its own."""

    def __init__(
        self,
        redis: Redis,
        keys: Keys,
        worker: WorkerId,
        *,
        claim: Callable[[TurnId], Awaitable[None]],
        has_room: Callable[[], bool],
    ) -> None:
        """`claim` must return within milliseconds.

        While `has_room()` is false the shared queue rests.
        """

    async def run(self) -> None:
        """Serve both queues until cancelled.

        Survives Redis faults (retries with a bounded back-off).
        """
        raise NotImplementedError

    def wake(self) -> None:
        """Room has come free: look at the shared queue now."""
        raise NotImplementedError
