"""What a fleet costs Redis while nobody asks anything: `python -m tests.bench.fleet_cost`.

Workers, warm conversations and their leases are put on record in a Redis of its own; then each
thing a worker does again and again is done often, and Redis' CPU read before and after. Printed:
what one costs, and what share of one Redis all workers take with it. CPU, not time: it means the
same on a busy machine.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from redis.asyncio import Redis

from infra.runtime.identity import new_turn_id
from infra.store.access.limits import SubmitLimits
from infra.store.conversations.leases import RENEW_EVERY_S, Lease
from infra.store.keys import Keys
from infra.store.open import Store, store_on
from infra.store.placement.queue import SCAN_EVERY_S
from infra.store.placement.waiting_room import Taken
from infra.store.placement.workers import BEAT_EVERY_S, WorkerRecord
from infra.store.server.connection import connect
from infra.store.turns.turns import NewTurn
from infra.wire.ids import ConversationKey, HostId, ReplicaId, TenantId, TurnId, WorkerId
from infra.wire.states import WorkerState
from infra.wire.turns import TextBlock, TurnRequest
from tests.bench import report
from tests.bench.ending import end_in_order
from tests.bench.report import Report
from tests.bench.table import render
from tests.fakes.redis_server import real_redis
from worker.hosts.capacity import IDLE_AGENT_MB
from worker.parts import Timings
from worker.placement.reaper import STRETCH_MAX, WORKERS_UNSTRETCHED

CALLS = 300
AT_ONCE = 64
TIMINGS = Timings()
SWEEP_EVERY_S = (TIMINGS.sweep_at_least_s + TIMINGS.sweep_at_most_s) / 2
LIMITS = SubmitLimits(turns_waiting_max=50)


@dataclass(frozen=True)
class Cost:
    """`redis_s` of one call, and how often a worker makes it."""

    name: str
    redis_s: float
    every_s: float | None


class Fleet:
    """Workers and warm conversations on record."""

    def __init__(self, redis: Redis, *, workers: int, conversations: int) -> None:
        self.redis = redis
        self.store: Store = store_on(redis, Keys("agc"))
        self.size = workers
        self.leases: dict[WorkerId, list[Lease]] = {}
        self._conversations = conversations
        self._fresh = itertools.count(10_000_000)

    def worker(self, n: int) -> WorkerId:
        return WorkerId(f"host-{n % self.size}-{n % self.size:08x}")

    def host(self, n: int) -> HostId:
        return HostId(f"host-{n % self.size}")

    async def beat(self, n: int) -> None:
        """One worker's heartbeat."""
        await self.store.workers.beat(
            WorkerRecord(
                worker=self.worker(n),
                host=self.host(n),
                pid=1,
                version="1",
                slots=88,
                used=10,
                state=WorkerState.READY,
                started_ms=1,
                memory_mb=16_000,
                memory_needed_mb=1500,
                starts_max=2,
            )
        )

    async def begin(self) -> None:
        """Put them on record."""
        await _many(self.size, self.beat)
        await _many(self._conversations, self._warm)

    async def ask(self, c: ConversationKey, n: int) -> TurnId:
        turn, tenant = new_turn_id(), TenantId(f"{n % 50:020d}")
        request = TurnRequest(
            turn=turn,
            conversation=c,
            tenant=tenant,
            model="m",
            prompt=(TextBlock(text="hi"),),
            deadline_s=3600,
            idle_timeout_s=1800,
        )
        new = NewTurn(request, ReplicaId("api"), "v1.sealed", 4_000_000_000_000)
        await self.store.turns.submit(new, limits=LIMITS, retention_s=7 * 86400)
        return turn

    async def _warm(self, n: int) -> None:
        """What the periodic work sees of one: its record, its lease, its deadline far ahead."""
        c, keys = ConversationKey(f"{n:024x}"), Keys("agc")
        lease = await self.store.leases.acquire(c, self.worker(n), self.host(n))
        await self.redis.hset(  # type: ignore[misc]
            keys.conversation(c), mapping={"state": "warm", "container": f"{n:064x}"}
        )
        await self.redis.zadd(keys.idle(), {c: 4_000_000_000_000})
        self.leases.setdefault(self.worker(n), []).append(lease)

    async def take(self, n: int) -> None:
        """Ask for one turn, and give it to the worker that asks or to a freer one."""
        c = ConversationKey(f"{next(self._fresh):024x}")
        await self.ask(c, n)

    async def taken(self, n: int) -> None:
        given = await self.store.room.take(
            self.worker(n),
            self.host(n),
            home_patience_s=TIMINGS.home_patience_s,
            container_mb=IDLE_AGENT_MB,
        )
        assert given is not None
        if isinstance(given, Taken):
            await self.store.starts.end(given.conversation, self.host(n))


async def _many(count: int, one: Callable[[int], Awaitable[object]]) -> None:
    places = asyncio.Semaphore(AT_ONCE)

    async def placed(n: int) -> None:
        async with places:
            await one(n)

    await asyncio.gather(*(placed(n) for n in range(count)))


async def _redis_s(redis: Redis) -> float:
    facts = await redis.info("cpu")
    return float(facts["used_cpu_user"]) + float(facts["used_cpu_sys"])


async def _cost(
    fleet: Fleet, name: str, every_s: float | None, one: Callable[[int], Awaitable[object]]
) -> Cost:
    before = await _redis_s(fleet.redis)
    for n in range(CALLS):
        await one(n)
    return Cost(name, (await _redis_s(fleet.redis) - before) / CALLS, every_s)


async def measure(fleet: Fleet) -> list[Cost]:
    """Each thing a worker does again and again, and `take` beside them."""
    store, redis, keys = fleet.store, fleet.redis, Keys("agc")

    async def renew(n: int) -> None:
        await store.leases.renew(fleet.leases.get(fleet.worker(n), []))

    async def look(n: int) -> None:
        """What a queue costs whose bell is silent."""
        await redis.zrangebyscore(keys.worker_queue(fleet.worker(n)), "-inf", 1, start=0, num=8)
        await redis.llen(keys.bell(keys.worker_queue(fleet.worker(n))))  # type: ignore[misc]

    async def inventory(n: int) -> None:
        await store.workers.take_inventory(
            fleet.host(n), {f"{i}": ConversationKey("c" * 24) for i in range(10)}
        )

    async def due(n: int) -> None:
        worker = fleet.worker(n)
        owned = [lease.conversation for lease in fleet.leases.get(worker, [])]
        await store.conversations.due(worker, fleet.host(n), owned=owned)

    stretch = min(max(fleet.size / WORKERS_UNSTRETCHED, 1.0), STRETCH_MAX)
    sweep_s = SWEEP_EVERY_S * stretch
    costs = [
        await _cost(fleet, "(an empty command, to compare)", None, lambda n: redis.ping()),
        await _cost(fleet, "heartbeat", BEAT_EVERY_S, fleet.beat),
        await _cost(fleet, "renewal of its leases", RENEW_EVERY_S, renew),
        await _cost(
            fleet, "sweep: siblings", sweep_s, lambda n: store.workers.of_host(fleet.host(n))
        ),
        await _cost(
            fleet,
            "sweep: unclaimed",
            sweep_s,
            lambda n: store.turns.unclaimed(older_than_ms=2000),
        ),
        await _cost(fleet, "sweep: due", sweep_s, due),
        await _cost(
            fleet, "sweep: wipes", sweep_s, lambda n: store.conversations.wipes(fleet.host(n))
        ),
        await _cost(fleet, "two queues and their bells", SCAN_EVERY_S / 2, look),
        await _cost(fleet, "inventory", TIMINGS.inventory_every_s, inventory),
    ]
    await _many(CALLS, fleet.take)
    costs.append(await _cost(fleet, "take", None, fleet.taken))
    return costs


async def bench(workers: int, conversations: int, out: Report) -> None:
    """One fleet."""
    async with real_redis() as server:
        redis = connect(server.url, timeout_s=60, name="bench")
        fleet = Fleet(redis, workers=workers, conversations=conversations)
        await fleet.begin()
        costs = await measure(fleet)
        await redis.aclose()
    rows, total = [], 0.0
    for cost in costs:
        share = workers * cost.redis_s / cost.every_s if cost.every_s else None
        total += share or 0.0
        rows.append(
            [
                cost.name,
                f"{cost.redis_s * 1e6:.0f}",
                f"{cost.every_s:g}" if cost.every_s else "-",
                f"{share * 100:.1f} %" if share is not None else "-",
            ]
        )
    out.add(f"### {workers} workers, {conversations} warm conversations, nobody asks anything")
    out.add(render(["", "Redis us each", "every s", "of one Redis"], rows))
    out.add(f"All periodic work together: {total * 100:.1f} % of one Redis.")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--conversations", type=int, default=10_000)
    given = parser.parse_args()
    out = Report()
    out.add(report.machine())
    for workers in given.workers:
        asyncio.run(bench(workers, given.conversations, out))


if __name__ == "__main__":
    end_in_order()
    main()
