"""Placement: arq with a bell. A job is `claim(turn_id)`; it takes milliseconds and runs no turn.

One script writes the job record, the queue entry and the bell. Instead of polling, a worker waits
in BLPOP on the bell, with a safety scan every few seconds.

Differences from arq, on purpose:
- `Worker.main` is replaced: arq polls (373 ms until a job starts, by default) and logs INFO of
  Redis. Ours waits for the bell (under 2 ms) and raises errors, so that `PlacementWorker` rebuilds
  everything. arq's own loop ends the process when Redis is unavailable, and leaks its job counter.
- The enqueue is ours: arq's takes four round trips and drops a job whose id is in progress. Ours
  uses a new id each time, so a repeated hint is never lost; except in the shared queue, where one
  job per turn is enough.
- The score of a queue entry is its position, not a time: arq uses the enqueuer's clock, and a
  worker whose clock was two milliseconds behind left the hint to its next safety scan.
- Pipelines return their connection when they are cancelled.
- JSON instead of pickle, one attempt, no stored results, no signal handlers.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from arq.connections import ArqRedis
from arq.constants import job_key_prefix
from arq.jobs import serialize_job
from arq.worker import Worker, func
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from infra.store.keys import Keys
from infra.store.server.calls import Call
from infra.store.server.connection import dedicated
from infra.store.server.faults import FAULTS, delays
from infra.store.server.replies import OkAnswer
from infra.store.server.scripts import Scripts
from infra.wire.errors import AgClusterError
from infra.wire.ids import TurnId, WorkerId

SCAN_EVERY_S = 4.0
"""The safety scan: seconds that a worker waits for its bell before it checks the queue."""

SIDE_SCAN_EVERY_S = 10.0
"""Seconds for the shared queues. Less often, because it is a cost of idle workers, and the sweeps
hint again."""

_CLAIM = "claim"
_JOB_TTL_MS = 600_000
_QUEUE_TTL_S = 600
_BELL_TTL_S = 60
_BELL_RINGS_MAX = 8
_CLAIM_TIMEOUT_S = 10
_CLOSE_GRACE_S = 1.0
_CLAIMS_AT_ONCE = 8

log = logging.getLogger(__name__)


class HintCall(Call[OkAnswer], frozen=True):
    job_id: str
    job: bytes
    job_ttl_ms: int
    queue_ttl_ms: int
    bell_ttl_ms: int
    rings_max: int


class PlacementQueue:
    """Hints that tell workers about waiting turns.

    A hint is never the truth: the waiting room and the FIFOs are. Hints may be duplicated without
    harm; a lost one costs only time, because sweeps hint again. All methods raise
    `StoreUnavailable`.
    """

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._keys = keys
        self._scripts = Scripts(redis, keys)

    async def enqueue(self, turn: TurnId, owner: WorkerId | None) -> None:
        """Hint that a turn waits: to its conversation's owner, otherwise to a worker with room.

        Raises `StoreUnavailable`; the sweeper makes up for a lost hint.
        """
        if owner is not None:
            await self._enqueue(self._keys.worker_queue(owner), turn)
            return
        # One job per turn, however often it is hinted: they would pile up while nobody has room. If
        # a turn is hinted again while its job runs, no other job is needed, because its taker
        # continues until nothing waits.
        await self._enqueue(self._keys.place_queue(), turn, job_id=turn)

    async def enqueue_side(self, turn: TurnId) -> None:
        """Hint that a side turn waits: the first worker that takes it runs it. Raises
        `StoreUnavailable`."""
        await self._enqueue(self._keys.side_queue(), turn)

    async def _enqueue(self, queue: str, turn: TurnId, *, job_id: str | None = None) -> None:
        bell = self._keys.bell(queue)
        job_id = job_id or f"{turn}:{secrets.token_hex(4)}"
        # For arq's log only.
        now_ms = time.time_ns() // 1_000_000
        job = serialize_job(_CLAIM, (turn,), {}, None, now_ms, serializer=_to_json)
        await self._scripts.run(
            HintCall(
                job_id=job_id,
                job=job,
                job_ttl_ms=_JOB_TTL_MS,
                queue_ttl_ms=_QUEUE_TTL_S * 1000,
                bell_ttl_ms=_BELL_TTL_S * 1000,
                rings_max=_BELL_RINGS_MAX,
            ),
            queue=queue,
            job=job_key_prefix + job_id,
            bell=bell,
        )


@dataclass(frozen=True)
class SideClaims:
    """How a worker serves the side lane. It has capacity of its own: a side turn uses no slot."""

    claim: Callable[[TurnId], Awaitable[None]]
    has_room: Callable[[], bool]


class PlacementWorker:
    """The queues that one worker process serves: the shared one, its own, and the side lane's."""

    def __init__(
        self,
        redis: Redis,
        keys: Keys,
        worker: WorkerId,
        *,
        claim: Callable[[TurnId], Awaitable[None]],
        has_room: Callable[[], bool],
        take: Callable[[TurnId], Awaitable[None]] | None = None,
        side: SideClaims | None = None,
    ) -> None:
        """`claim` is called for hints to this worker, `take` (by default the same) for those of the
        shared queue, which only say that something waits. Both must return within milliseconds.

        While `has_room()` is false, the shared queue is not served; `take` may still be called for
        a hint that arrived just before. Without `side`, other workers serve the side lane.
        """
        self._take = take or claim
        self._side = side
        self._redis = redis
        self._keys = keys
        self._worker = worker
        self._claim = claim
        self._has_room = has_room
        self._room_came_free = asyncio.Event()

    async def run(self) -> None:
        """Serve the queues until cancelled.

        Survives Redis errors (retries with a bounded back-off).
        """
        place, own = self._keys.place_queue(), self._keys.worker_queue(self._worker)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._serve(place, self._take, self._has_room, SCAN_EVERY_S))
            group.create_task(self._serve(own, self._claim, lambda: True, SCAN_EVERY_S))
            if side := self._side:
                shared = self._keys.side_queue()
                group.create_task(self._serve(shared, side.claim, side.has_room, SIDE_SCAN_EVERY_S))

    def wake(self) -> None:
        """There is room again: check the shared queues now."""
        self._room_came_free.set()

    async def _serve(
        self,
        queue: str,
        claim: Callable[[TurnId], Awaitable[None]],
        has_room: Callable[[], bool],
        scan_every_s: float,
    ) -> None:
        """Serve one queue forever. An error costs this queue's connections, never the loop."""
        pauses = delays()
        while True:
            jobs = dedicated(self._redis, timeout_s=_read_timeout_s(self._redis), purpose="arq")
            bell = dedicated(
                self._redis,
                timeout_s=scan_every_s + _read_timeout_s(self._redis),
                purpose="bell",
            )
            worker = _BellWorker(
                queue=queue,
                jobs=jobs,
                bell=bell,
                bell_key=self._keys.bell(queue),
                claim=claim,
                has_room=has_room,
                room_came_free=self._room_came_free,
                scan_every_s=scan_every_s,
            )
            started = time.monotonic()
            try:
                await worker.main()
            except FAULTS as error:
                log.warning("queue %s interrupted (%s), resuming", queue, type(error).__name__)
                await worker.settle(_CLAIM_TIMEOUT_S)
            finally:
                await worker.aclose()
            if time.monotonic() - started > SCAN_EVERY_S:
                pauses = delays()
            await asyncio.sleep(next(pauses))


class _BellWorker(Worker):
    """arq's worker for one queue, waiting for a bell. Lives until the first error."""

    def __init__(
        self,
        *,
        queue: str,
        jobs: Redis,
        bell: Redis,
        bell_key: str,
        claim: Callable[[TurnId], Awaitable[None]],
        has_room: Callable[[], bool],
        room_came_free: asyncio.Event,
        scan_every_s: float,
    ) -> None:
        self._jobs = jobs
        self._bell = bell
        self._bell_key = bell_key
        self._claim = claim
        self._has_room = has_room
        self._room_came_free = room_came_free
        self._scan_every_s = scan_every_s
        super().__init__(
            [func(self._run_claim, name=_CLAIM, max_tries=1, keep_result=0)],  # type: ignore[arg-type]
            queue_name=queue,
            redis_pool=_TidyArqRedis(
                jobs.connection_pool, job_serializer=_to_json, job_deserializer=_from_json
            ),
            handle_signals=False,
            max_jobs=_CLAIMS_AT_ONCE,
            job_timeout=_CLAIM_TIMEOUT_S,
            keep_result=0,
            max_tries=1,
            job_serializer=_to_json,
            job_deserializer=_from_json,
            log_results=False,
        )

    async def main(self) -> None:
        """Check, wait for the bell, check again. Raises one of `FAULTS` if Redis is unavailable."""
        while True:
            self._room_came_free.clear()
            if not self._has_room():
                await self._until_room()
                continue
            await self._poll_iteration()
            if self.job_counter >= self.max_jobs:
                await asyncio.wait(self.tasks.values(), return_when=asyncio.FIRST_COMPLETED)
            elif await self._bell_rings() and not self._has_room():
                # One ring wakes one worker: pass this one on to another worker.
                await self._ring_again()

    async def settle(self, within_s: float) -> None:
        """Wait for the running claims to finish."""
        if self.tasks:
            await asyncio.wait(self.tasks.values(), timeout=within_s)

    async def aclose(self) -> None:
        """End the running claims and close the connections.

        Claims take milliseconds and get their time: a cancelled claim would leave arq's shielded
        clean-up running in the background.
        """
        await self.settle(_CLOSE_GRACE_S)
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        for client in (self._bell, self._jobs):
            try:
                await client.aclose()
            except FAULTS as error:
                log.debug("closing a queue's client: %s", error)

    async def _run_claim(self, _ctx: dict[Any, Any], turn: str) -> None:
        try:
            await self._claim(TurnId(turn))
        except AgClusterError as error:
            # The turn is still open: the sweeper hints again.
            log.warning("claim of %s put off: %s", turn, error)

    async def _until_room(self) -> None:
        try:
            async with asyncio.timeout(SCAN_EVERY_S):
                await self._room_came_free.wait()
        except TimeoutError:
            return

    async def _bell_rings(self) -> bool:
        """Wait until the bell rings. False if it is time for a safety scan."""
        wait_s = self._scan_every_s * random.uniform(0.75, 1.0)
        rung = await self._bell.blpop([self._bell_key], timeout=wait_s)  # type: ignore[misc, arg-type]
        return rung is not None

    async def _ring_again(self) -> None:
        async with self._jobs.pipeline(transaction=True) as pipe:
            _ring(pipe, self._bell_key)
            await pipe.execute()


class _TidyPipeline(Pipeline):
    """redis-py's pipeline loses its connection for the pool if its own clean-up is cancelled or
    fails, because it first undoes a WATCH. arq uses WATCH, and its loop is cancelled often."""

    async def reset(self) -> None:
        try:
            await super().reset()  # type: ignore[no-untyped-call]
        finally:
            left, self.connection = self.connection, None
            if left is not None:
                # It may have an outstanding answer that nobody will read.
                await left.disconnect(nowait=True)
                await self.connection_pool.release(left)


class _TidyArqRedis(ArqRedis):
    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        return _TidyPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)


def _ring(pipe: Any, bell: str) -> None:
    """One ring per hint. A bell that nobody hears is bounded and expires on its own."""
    pipe.lpush(bell, "1")
    pipe.ltrim(bell, 0, _BELL_RINGS_MAX - 1)
    pipe.expire(bell, _BELL_TTL_S)


def _read_timeout_s(redis: Redis) -> float:
    return float(redis.connection_pool.connection_kwargs.get("socket_timeout") or 5.0)


def _to_json(job: dict[str, Any]) -> bytes:
    # The next worker gives up a job that a dying worker had taken. arq then stores the exception as
    # its result, which nobody reads, and logs an error if it cannot.
    return json.dumps(job, separators=(",", ":"), default=str).encode()


def _from_json(raw: bytes) -> dict[str, Any]:
    job: dict[str, Any] = json.loads(raw)
    return job
