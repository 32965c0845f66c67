"""Which API replicas have clients waiting for a turn that was asked for more than once.

Only repeats are written down: the turn's own record names the replica that asked first. A replica
that died without a word still stands here; whether it lives is asked of its subscription.
"""

from __future__ import annotations

from redis.asyncio import Redis

from infra.store.connection import translate
from infra.store.keys import Keys
from infra.store.replies import text
from infra.wire.ids import ReplicaId, TurnId

_WAITS, _LEFT = "1", "0"


class TurnReaders:
    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys

    async def join(
        self, turn: TurnId, *, here: ReplicaId, first_at: ReplicaId, ttl_s: float
    ) -> None:
        """A client of `here` waits too. Raises `StoreUnavailable`."""
        key = self._keys.turn_readers(turn)
        with translate():
            async with self._redis.pipeline(transaction=True) as pipe:
                # It may have left by now, and has then said so.
                pipe.hsetnx(key, first_at, _WAITS)
                pipe.hset(key, here, _WAITS)
                pipe.pexpire(key, round(ttl_s * 1000))
                await pipe.execute()

    async def leave(self, turn: TurnId, *, here: ReplicaId, ttl_s: float) -> bool:
        """No client of `here` waits any more; True when those of another living replica do.

        Raises `StoreUnavailable`.
        """
        key = self._keys.turn_readers(turn)
        with translate():
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.hset(key, here, _LEFT)
                pipe.pexpire(key, round(ttl_s * 1000))
                pipe.hgetall(key)
                *_, found = await pipe.execute()
            waiting = [text(replica) for replica, how in found.items() if text(how) == _WAITS]
            if await self._any_lives(waiting):
                return True
            await self._redis.unlink(key)
            return False

    async def _any_lives(self, replicas: list[str]) -> bool:
        if not replicas:
            return False
        channels = [self._keys.replica_channel(ReplicaId(replica)) for replica in replicas]
        counts = await self._redis.pubsub_numsub(*channels)
        return any(int(count) > 0 for _, count in counts)
