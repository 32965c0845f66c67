"""What a conversation takes in Redis: `python -m tests.bench.redis_bytes`.

Many of a kind are put on record in a Redis of its own by the scripts that do it in earnest, and
Redis' memory is read before and after. Idle: one answered turn whose own records have expired.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable

from redis.asyncio import Redis

from infra.runtime.identity import new_turn_id
from infra.store.access.limits import SubmitLimits
from infra.store.conversations.leases import Lease
from infra.store.keys import Keys
from infra.store.open import store_on
from infra.store.server.connection import connect
from infra.store.turns.history import TurnBase
from infra.store.turns.turns import NewTurn
from infra.wire.events import TextDelta, TurnEnded, TurnStarted, encode_event
from infra.wire.ids import ConversationKey, HostId, ReplicaId, TenantId, TurnId, WorkerId
from infra.wire.link import BaseKind
from infra.wire.states import ConversationState, TurnState
from infra.wire.turns import TextBlock, TurnRequest
from tests.bench import report
from tests.bench.ending import end_in_order
from tests.bench.report import Report
from tests.bench.table import render
from tests.fakes.redis_server import real_redis

WORKER, HOST, TENANT = WorkerId("host-1-00000001"), HostId("host-1"), TenantId("t" * 20)
PROMPT = "How many feet are there in a mile, and why is it such an odd number? " * 3
DELTA = "about five words of text "
EVENTS = 1000
EVENTS_AT_ONCE = 20


class Bytes:
    """One Redis, and conversations to put into it."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._keys = Keys("agc")
        self._store = store_on(redis, self._keys)

    async def used(self) -> int:
        """Bytes that Redis' data takes, without its clients and what it frees later."""
        facts = await self._redis.memory_stats()
        return int(facts["dataset.bytes"])

    async def per(self, count: int, one: Callable[[int], Awaitable[object]]) -> float:
        """What one more takes."""
        before = await self.used()
        for n in range(count):
            await one(n)
        return (await self.used() - before) / count

    async def submit(self, c: ConversationKey) -> TurnId:
        turn = new_turn_id()
        request = TurnRequest(
            turn=turn,
            conversation=c,
            tenant=TENANT,
            model="claude-test",
            prompt=(TextBlock(text=PROMPT),),
            deadline_s=3600,
            idle_timeout_s=1800,
        )
        new = NewTurn(request, ReplicaId("api"), "v1." + "s" * 150, 4_000_000_000_000)
        limits = SubmitLimits(turns_waiting_max=100_000)
        await self._store.turns.submit(new, limits=limits, retention_s=7 * 86400)
        return turn

    async def start(self, c: ConversationKey, turn: TurnId) -> Lease:
        store = self._store
        lease = await store.leases.acquire(c, WORKER, HOST)
        await store.turns.claim(lease)
        for state in (ConversationState.STARTING, ConversationState.BUSY):
            await store.conversations.update(lease, state, container="c" * 64)
        base = TurnBase(kind=BaseKind.CONTINUE, digest="0" * 16)
        await store.turns.start(lease, turn, base=base)
        first = encode_event(TurnStarted(sdk_session="5" * 36, model="claude-test"))
        await store.log.append(lease, turn, [(1, first)])
        return lease

    async def answered(self, n: int) -> tuple[Lease, TurnId]:
        """A turn that said one thing, and its conversation warm."""
        c = ConversationKey(f"{n:024x}")
        turn = await self.submit(c)
        lease = await self.start(c, turn)
        said = encode_event(TextDelta(text=DELTA))
        await self._store.log.append(lease, turn, [(2, said)])
        end = TurnEnded(state=TurnState.DONE)
        await self._store.turns.finish(lease, turn, 3, end, idle_timeout_s=1800)
        return lease, turn

    async def idle(self, n: int) -> None:
        """An answered one that has gone cold, and whose turn has expired."""
        lease, turn = await self.answered(n)
        await self._store.leases.release(lease, ConversationState.COLD)
        keys = self._keys
        await self._redis.delete(keys.turn(turn), keys.turn_events(turn))

    async def log_events(self, lease: Lease, turn: TurnId, events: int) -> None:
        """So many more of a running turn."""
        said = encode_event(TextDelta(text=DELTA))
        for first in range(2, events + 2, EVENTS_AT_ONCE):
            numbers = range(first, first + EVENTS_AT_ONCE)
            await self._store.log.append(lease, turn, [(n, said) for n in numbers])


async def measure(redis: Redis, count: int) -> list[tuple[str, float]]:
    """Bytes by what takes them."""
    held = Bytes(redis)
    await held.idle(0)  # Scripts and shared keys are there from here on.
    idle = await held.per(count, lambda n: held.idle(n + 1))
    warm = await held.per(count, lambda n: held.answered(n + 1 + count))
    c = ConversationKey("e" * 24)
    waiting = await held.per(count, lambda _: held.submit(c))
    running = ConversationKey("f" * 24)
    turn = await held.submit(running)
    lease = await held.start(running, turn)
    logged = await held.per(1, lambda _: held.log_events(lease, turn, EVENTS))
    return [
        ("an idle conversation, without its transcript", idle),
        ("an ended turn, for its hour", warm - idle),
        (f"a turn that waits, with {len(PROMPT)} bytes of prompt", waiting),
        (f"{EVENTS} events of {len(DELTA)} bytes of text", logged),
    ]


async def bench(count: int, out: Report) -> None:
    """One run."""
    async with real_redis() as server:
        redis = connect(server.url, timeout_s=60, name="bench")
        rows = [[what, f"{taken:,.0f}"] for what, taken in await measure(redis, count)]
        await redis.aclose()
    out.add(render(["", "bytes of Redis"], rows))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="of each kind")
    given = parser.parse_args()
    out = Report()
    out.add(report.machine())
    asyncio.run(bench(given.count, out))


if __name__ == "__main__":
    end_in_order()
    main()
