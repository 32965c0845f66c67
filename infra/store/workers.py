"""The registry of workers:

heartbeats, slots, who lives. And what they are told (`infra.wire.control`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from redis.asyncio import Redis

from infra.store.keys import Keys
from infra.wire.control import Control
from infra.wire.ids import HostId, WorkerId

BEAT_EVERY_S = 5.0
BEAT_TTL_S = 15.0


@dataclass(frozen=True)
class WorkerRecord:
    worker: WorkerId
    host: HostId
    pid: int
    version: str
    slots: int
    used: int
    state: str
    """ready or draining."""
    started_ms: int


class WorkerRegistry:
    def __init__(self, redis: Redis, keys: Keys) -> None: ...

    async def beat(self, record: WorkerRecord) -> None:
        """Say that the worker lives; good for 15 s."""
        raise NotImplementedError

    async def leave(self, worker: WorkerId) -> None:
        raise NotImplementedError

    async def alive(self) -> Sequence[WorkerRecord]:
        raise NotImplementedError

    def control(self, worker: WorkerId) -> AsyncIterator[Control]:
        """What the worker is told, for ever; resubscribes after a fault.

        Unknown messages are skipped.
        """
        raise NotImplementedError
