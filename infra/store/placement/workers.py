"""The registry of workers: heartbeats, slots, and which workers live. Also the messages to them
(`infra.wire.control`)."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal, NamedTuple

from redis.asyncio import Redis

from infra.store.keys import Keys
from infra.store.server.calls import Call
from infra.store.server.channel import listen
from infra.store.server.connection import translate
from infra.store.server.replies import Answer, AnswerRow
from infra.store.server.scripts import Scripts
from infra.wire.control import Control, DrainWorker, decode_control
from infra.wire.errors import MalformedMessage, UnknownMessage
from infra.wire.ids import ConversationKey, HostId, WorkerId
from infra.wire.states import WorkerState

BEAT_EVERY_S = 5.0
BEAT_TTL_S = 15.0
INVENTORY_TTL_S = 60

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerRecord:
    """A worker's hash, typed."""

    worker: WorkerId
    host: HostId
    pid: int
    version: str
    slots: int
    used: int
    state: WorkerState
    started_ms: int
    memory_mb: int | None = None
    """Available memory on its host, minus what starting agents will use; None if unknown."""
    memory_needed_mb: int = 0
    """It starts nothing new with less available memory than this."""
    starts_max: int | None = None
    """Agents that its host starts at once; None for no limit."""
    machine: str | None = None
    """The id of its host's machine, independent of the host's name; None if unknown."""
    coming: int = 0
    """Turns that were given to it since its last heartbeat."""
    idle_since_ms: Sequence[int] = ()
    """Since when (Unix ms, by its host's clock) those of its conversations are idle that it would
    hibernate first; the longest idle first."""
    spares: int = 0
    """Spare agents that wait for a conversation."""
    spare_hits: int = 0
    spare_misses: int = 0
    """Conversations that got a spare since it started, and that found none."""
    hibernated: int = 0
    """How many containers it has stopped before their idle deadline, for the sake of others."""
    upstream: str = ""
    """What its gateway knows of the model's service: `ok`, or host and cause; empty: nothing."""

    @property
    def has_free_slot(self) -> bool:
        return self.used + self.coming < self.slots

    @property
    def is_staying(self) -> bool:
        """Whether it continues with what its host has, even while its engine starts nothing new."""
        return self.state is not WorkerState.DRAINING


@dataclass(frozen=True)
class Resubscribed:
    """The worker may have missed messages."""

    type: Literal["resubscribed"] = "resubscribed"


class BeatAnswer(Answer, frozen=True):
    outcome: Literal["ok"]
    living: int


class HashField(NamedTuple):
    name: str
    value: str | int


class BeatCall(Call[BeatAnswer], frozen=True):
    worker: WorkerId
    life_ms: int
    fields: Sequence[HashField]


class LivingWorker(AnswerRow, frozen=True):
    worker: WorkerId
    record: Mapping[str, str]


class AliveAnswer(Answer, frozen=True):
    outcome: Literal["ok"]
    workers: Sequence[LivingWorker]


class AliveCall(Call[AliveAnswer], frozen=True):
    pass


class WorkerLeavesAnswer(Answer, frozen=True):
    outcome: Literal["ok"]
    left: int


class WorkerLeavesCall(Call[WorkerLeavesAnswer], frozen=True):
    worker: WorkerId


class WorkerRegistry:
    """The live workers of the cluster, and messages to them.

    A worker is alive for 15 s after each heartbeat, or until it says that it leaves. Messages are
    sent over pub/sub and may be lost: each is only a hint, and the state it announces is stored
    elsewhere. All methods raise `StoreUnavailable`.
    """

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys
        self._scripts = Scripts(redis, keys)

    async def beat(self, record: WorkerRecord) -> int:
        """Record that the worker is alive, for 15 s. Returns the number of live workers."""
        hash_fields: dict[str, str | int] = {
            "host": record.host,
            "pid": record.pid,
            "version": record.version,
            "slots": record.slots,
            "used": record.used,
            "state": record.state.value,
            "started": record.started_ms,
            "memory_needed_mb": record.memory_needed_mb,
            "idle_since": " ".join(map(str, record.idle_since_ms)),
            "hibernated": record.hibernated,
            "spares": record.spares,
            "spare_hits": record.spare_hits,
            "spare_misses": record.spare_misses,
            "upstream": record.upstream,
        }
        if record.memory_mb is not None:
            hash_fields["memory_mb"] = record.memory_mb
        if record.starts_max is not None:
            hash_fields["starts_max"] = record.starts_max
        if record.machine is not None:
            hash_fields["machine"] = record.machine
        answer = await self._scripts.run(
            BeatCall(
                worker=record.worker,
                life_ms=round(BEAT_TTL_S * 1000),
                fields=[HashField(*field) for field in hash_fields.items()],
            ),
            workers=self._keys.workers(),
            worker=self._keys.worker(record.worker),
            epoch=self._keys.epoch(),
            host_workers=self._keys.host_workers(record.host),
        )
        return answer.living

    async def epoch(self) -> int:
        """Since when this Redis has had its data (its TIME, µs); set to now if it is empty."""
        key = self._keys.epoch()
        with translate():
            seconds, micros = await self._redis.time()
            await self._redis.set(key, seconds * 1_000_000 + micros, nx=True)
            return int(await self._redis.get(key) or 0)

    async def leave(self, worker: WorkerId) -> int:
        """Record that the worker is no longer alive.

        Returns how many workers of its host are left: if several leave at once, exactly one gets to
        know that it is the last. Raises `StoreUnavailable`.
        """
        answer = await self._scripts.run(
            WorkerLeavesCall(worker=worker),
            workers=self._keys.workers(),
            worker=self._keys.worker(worker),
        )
        return answer.left

    async def drain(self, worker: WorkerId, *, retire: bool = False) -> bool:
        """Tell a worker to leave, like SIGTERM. False if it does not listen.

        `retire`: it stops its containers first. Raises `StoreUnavailable`.
        """
        told = DrainWorker(retire=retire).encode()
        with translate():
            heard = await self._redis.publish(self._keys.control_channel(worker), told)
        return int(heard) > 0

    async def alive(self) -> Sequence[WorkerRecord]:
        """All live workers, including draining ones.

        Reads all records, so this is for people. A worker asks for those of a host, or whether some
        are alive.
        """
        return await self._living(self._keys.workers())

    async def of_host(self, host: HostId) -> Sequence[WorkerRecord]:
        """The workers of one host."""
        return await self._living(self._keys.host_workers(host))

    async def living(self, workers: Collection[WorkerId]) -> frozenset[WorkerId]:
        """Which of these workers are alive. Raises `StoreUnavailable`."""
        asked = sorted(workers)
        with translate():
            async with self._redis.pipeline(transaction=False) as pipe:
                for worker in asked:
                    pipe.exists(self._keys.worker(worker))
                answers = await pipe.execute()
        return frozenset(w for w, lives in zip(asked, answers, strict=True) if lives)

    async def _living(self, index: str) -> Sequence[WorkerRecord]:
        answer = await self._scripts.run(AliveCall(), index=index)
        return [_record(found.worker, found.record) for found in answer.workers]

    async def take_inventory(self, host: HostId, containers: Mapping[str, ConversationKey]) -> None:
        """Record which containers run on a host, and their conversations; valid for 60 s."""
        key = self._keys.host_containers(host)
        with translate():
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.delete(key)
                if containers:
                    pipe.hset(key, mapping=dict(containers))
                    pipe.expire(key, INVENTORY_TTL_S)
                await pipe.execute()

    async def control(self, worker: WorkerId) -> AsyncGenerator[Control | Resubscribed, None]:
        """The messages to the worker, without end. Resubscribes after an error, and reports that.

        Unknown messages are skipped. Messages sent while the connection was down are lost: the flag
        of a cancel remains, and the next renewal reports it; waiting turns have to be looked up.
        """
        channel = self._keys.control_channel(worker)
        is_first = True
        async with aclosing(listen(self._redis, channel, purpose="control")) as messages:
            async for message in messages:
                if message is None:
                    if not is_first:
                        yield Resubscribed()
                    is_first = False
                    continue
                try:
                    said = decode_control(message)
                except (UnknownMessage, MalformedMessage) as error:
                    log.warning("control message skipped: %s", error)
                else:
                    yield said


def _record(worker: WorkerId, held: Mapping[str, str]) -> WorkerRecord:
    return WorkerRecord(
        worker=worker,
        host=HostId(held["host"]),
        pid=int(held["pid"]),
        version=held["version"],
        slots=int(held["slots"]),
        used=int(held["used"]),
        state=_state(held["state"]),
        started_ms=int(held["started"]),
        memory_mb=int(held["memory_mb"]) if "memory_mb" in held else None,
        memory_needed_mb=int(held.get("memory_needed_mb", 0)),
        starts_max=int(held["starts_max"]) if "starts_max" in held else None,
        machine=held.get("machine"),
        coming=int(held.get("coming", 0)),
        idle_since_ms=tuple(map(int, held.get("idle_since", "").split())),
        hibernated=int(held.get("hibernated", 0)),
        spares=int(held.get("spares", 0)),
        spare_hits=int(held.get("spare_hits", 0)),
        spare_misses=int(held.get("spare_misses", 0)),
        upstream=held.get("upstream", ""),
    )


def _state(word: str) -> WorkerState:
    try:
        return WorkerState(word)
    except ValueError:
        # A state of a later version. Whatever it means, nothing new is given to that worker.
        return WorkerState.FAILING
