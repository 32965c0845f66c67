"""The cluster at a glance: a few figures that cost Redis as little for a thousand conversations as
for one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from infra.store.keys import Keys
from infra.store.placement.workers import WorkerRecord, WorkerRegistry
from infra.store.server.connection import translate
from infra.store.server.replies import text
from infra.wire.ids import ReplicaId
from infra.wire.states import WorkerState


@dataclass(frozen=True)
class RedisHealth:
    """What Redis says about itself."""

    version: str
    used_bytes: int
    max_bytes: int
    """0: no limit but the machine's."""
    eviction_policy: str
    evicted_keys: int
    """Since it started. More than 0: conversations or leases may have been dropped."""
    clients: int
    rejected_connections: int
    has_append_file: bool
    last_write_ok: bool
    """Whether the last write of its append-only file, and its last snapshot, went well."""
    replicas: int

    @property
    def fullness(self) -> float:
        """The used share of its memory limit; 0 without one."""
        return self.used_bytes / self.max_bytes if self.max_bytes else 0.0


@dataclass(frozen=True)
class ClusterOverview:
    """The cluster at one moment."""

    unix_ms: int
    """By the clock of Redis."""
    redis: RedisHealth
    workers: Sequence[WorkerRecord]
    replicas: int
    """API replicas that listen."""
    turns_open: int
    """Turns that have not ended, waiting ones included."""
    turns_waiting: int
    """Turns that wait for a worker."""
    oldest_waiting_s: float
    """How long the longest of them has waited; 0 if none waits."""
    tenants_waiting: int
    idle: int
    """Conversations with a container and without a turn."""
    side_hints: int
    """Side turns that no worker has looked at."""
    file_stores: int
    """File stores in use; more than one is a mistake."""

    @property
    def hosts(self) -> int:
        """Hosts with a live worker."""
        return len({worker.host for worker in self.workers})

    @property
    def workers_by_state(self) -> Mapping[WorkerState, int]:
        """How many live workers are in each state."""
        return Counter(worker.state for worker in self.workers)


class OverviewReader:
    """Reads it. Raises `StoreUnavailable`."""

    def __init__(self, redis: Redis, keys: Keys, workers: WorkerRegistry) -> None:
        self._redis = redis
        self._keys = keys
        self._workers = workers

    async def read(self) -> ClusterOverview:
        """The cluster now. The figures are read one after the other, so they may differ by a
        moment."""
        keys = self._keys
        with translate():
            facts = await self._redis.info()
            seconds, micros = await self._redis.time()
            now_ms = seconds * 1000 + micros // 1000
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.zcard(keys.turns_open())
                pipe.zcard(keys.turns_waiting())
                pipe.zrange(keys.turns_waiting(), 0, 0, withscores=True)
                pipe.zcard(keys.ring())
                pipe.zcard(keys.idle())
                pipe.zcard(keys.side_queue())
                pipe.zcount(keys.file_stores(), now_ms, "+inf")
                pipe.pubsub_channels(keys.replica_channel(ReplicaId("*")))
                answers = await pipe.execute()
        opened, waiting, oldest, tenants, idle, side, stores, channels = answers
        return ClusterOverview(
            unix_ms=now_ms,
            redis=_health(facts),
            workers=await self._workers.alive(),
            replicas=len(channels),
            turns_open=opened,
            turns_waiting=waiting,
            oldest_waiting_s=max(0.0, (now_ms - oldest[0][1]) / 1000) if oldest else 0.0,
            tenants_waiting=tenants,
            idle=idle,
            side_hints=side,
            file_stores=stores,
        )


def _health(facts: Mapping[str, Any]) -> RedisHealth:
    return RedisHealth(
        version=text(facts.get("redis_version", "")),
        used_bytes=int(facts.get("used_memory", 0)),
        max_bytes=int(facts.get("maxmemory", 0)),
        eviction_policy=text(facts.get("maxmemory_policy", "noeviction")),
        evicted_keys=int(facts.get("evicted_keys", 0)),
        clients=int(facts.get("connected_clients", 0)),
        rejected_connections=int(facts.get("rejected_connections", 0)),
        has_append_file=bool(int(facts.get("aof_enabled", 0))),
        last_write_ok=all(
            text(facts.get(name, "ok")) == "ok"
            for name in ("aof_last_write_status", "rdb_last_bgsave_status")
        ),
        replicas=int(facts.get("connected_slaves", 0)),
    )
