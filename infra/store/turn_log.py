"""The turn log:

the numbered events of a turn as a Redis stream, the truth of what was said (D1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from redis.asyncio import Redis

from infra.store.connection import translate
from infra.store.keys import Keys
from infra.store.leases import Lease
from infra.store.replies import text
from infra.store.scripts import Scripts
from infra.wire.errors import LeaseLost, TurnLogTorn
from infra.wire.ids import TurnId
from infra.wire.states import TurnState

EVENTS_MAX = 200_000
"""A log keeps about this many events; a reader further behind sees a gap in the numbers.

It takes about 100 bytes of Redis for an event of a few words, so 20 MB for the longest turn, until
an hour after its end. Who wants a longer one from the beginning (a repeat, or who comes back) is
refused with `turn_log_trimmed`; who follows it live misses nothing.
"""


@dataclass(frozen=True)
class LogPage:
    """Events after a cursor. `state` is None when Redis does not know the turn (any more)."""

    events: Sequence[tuple[int, bytes]]
    state: TurnState | None


class TurnLog:
    def __init__(self, redis: Redis, keys: Keys, *, events_max: int = EVENTS_MAX) -> None:
        self._redis = redis
        self.events_max = events_max
        self._keys = keys
        self._scripts = Scripts(redis, keys)

    async def append(self, lease: Lease, turn: TurnId, events: Sequence[tuple[int, bytes]]) -> int:
        """Log the events; numbers already there are skipped. The newest number in the log.

        The first event makes a claimed turn run. A turn that has ended takes nothing more; that is
        no error. Raises `LeaseLost` when the fence is stale, and `TurnLogTorn` when events before
        these are not there any more; nothing is written then.
        """
        answer = await self._scripts.run(
            "append",
            [
                self._keys.conversation(lease.conversation),
                self._keys.turn(turn),
                self._keys.turn_events(turn),
            ],
            [
                lease.worker,
                str(lease.fence),
                turn,
                self.events_max,
                *(part for event in events for part in event),
            ],
        )
        if answer[0] == b"lost":
            raise LeaseLost(lease.conversation, lease.fence)
        if answer[0] == b"torn":
            raise TurnLogTorn(turn, int(answer[1]))
        return int(answer[1])

    async def read(self, turn: TurnId, *, after: int, limit: int = 1000) -> LogPage:
        """Events numbered above `after`, oldest first, and the turn's state, in one round trip.

        The state is the older of the two: who reads a terminal one has the end event in the log.
        """
        with translate():
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.hget(self._keys.turn(turn), "state")
                pipe.xrange(self._keys.turn_events(turn), min=f"{after + 1}-0", count=limit)
                state, entries = await pipe.execute()
        return LogPage(
            [(_number(id), entry[b"e"]) for id, entry in entries],
            None if state is None else TurnState(text(state)),
        )

    async def oldest(self, turn: TurnId) -> int | None:
        """The number of the first event that is kept; None of an empty log."""
        with translate():
            entries = await self._redis.xrange(self._keys.turn_events(turn), count=1)
        return _number(entries[0][0]) if entries else None

    async def newest(self, turn: TurnId) -> bytes | None:
        """The last event; None of an empty log."""
        with translate():
            entries = await self._redis.xrevrange(self._keys.turn_events(turn), count=1)
        return bytes(entries[0][1][b"e"]) if entries else None


def _number(id: bytes) -> int:
    return int(id.partition(b"-")[0])
