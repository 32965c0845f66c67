"""The turn log:

the numbered events of a turn as a Redis stream, the truth of what was said (D1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from redis.asyncio import Redis

from infra.store.keys import Keys
from infra.store.leases import Lease
from infra.wire.ids import TurnId
from infra.wire.states import TurnState


@dataclass(frozen=True)
class LogPage:
    """Events after a cursor. `state` is None when Redis does not know the turn (any more)."""

    events: Sequence[tuple[int, bytes]]
    state: TurnState | None


class TurnLog:
    def __init__(self, redis: Redis, keys: Keys) -> None: ...

    async def append(self, lease: Lease, turn: TurnId, events: Sequence[tuple[int, bytes]]) -> int:
        """Log the events; numbers already there are skipped. The newest number in the log.

        Raises `LeaseLost` when the fence is stale; nothing is written then.
        """
        raise NotImplementedError

    async def read(self, turn: TurnId, *, after: int, limit: int = 1000) -> LogPage:
        """Events numbered above `after`, oldest first, and the turn's state, in one round trip."""
        raise NotImplementedError
