"""What Redis is asked to do: per delta, while idle, and between a turn's hint and its claim."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from redis.asyncio import Redis

from infra.runtime.identity import new_turn_id, new_worker_id
from infra.store.keys import Keys
from infra.store.placement.queue import PlacementQueue, PlacementWorker
from infra.wire.ids import HostId, TurnId

Calls = Mapping[str, int]
_OURS = frozenset({"info", "config", "client"})
_SCRIPTS = ("evalsha", "eval", "fcall")
_ASKED = (*_SCRIPTS, "publish", "xrange", "blpop", "exec", "hgetall")
PLACED_WITHIN_S = 30.0


async def calls(redis: Redis) -> Calls:
    """How often each command ran so far, those called by scripts included; not our asking."""
    stats: dict[str, Any] = await redis.info("commandstats")
    counted: dict[str, int] = {}
    for name, figures in stats.items():
        command = name.removeprefix("cmdstat_").partition("|")[0]
        if command not in _OURS:
            counted[command] = counted.get(command, 0) + int(figures["calls"])
    return counted


def difference(before: Calls, after: Calls) -> Calls:
    """What ran between the two, the most frequent first."""
    grown = {name: count - before.get(name, 0) for name, count in after.items()}
    return dict(sorted(((n, c) for n, c in grown.items() if c), key=lambda item: -item[1]))


def asked(ran: Calls) -> int:
    """How many of them were asked for from outside: a script or a MULTI counts once."""
    return sum(ran.get(name, 0) for name in _ASKED)


def scripts(ran: Calls) -> int:
    """How many of them were scripts."""
    return sum(ran.get(name, 0) for name in _SCRIPTS)


def said(ran: Calls, per: float, *, most: int = 6) -> str:
    """Scripts, requests and commands for each of `per`, with the most frequent commands."""
    names = ", ".join(f"{name} {count / per:.2f}" for name, count in list(ran.items())[:most])
    return (
        f"{scripts(ran) / per:.2f} scripts, {asked(ran) / per:.2f} requests, "
        f"{sum(ran.values()) / per:.2f} commands ({names})"
    )


class Counted:
    """What ran in a Redis between `begin` and `end`, added up over several such times."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._before: Calls = {}
        self._total: dict[str, int] = {}

    async def begin(self) -> None:
        self._before = await self._now()

    async def end(self) -> None:
        for name, count in difference(self._before, await self._now()).items():
            self._total[name] = self._total.get(name, 0) + count

    @property
    def ran(self) -> Calls:
        """The most frequent first."""
        return difference({}, self._total)

    async def _now(self) -> Calls:
        async with Redis.from_url(self._url) as redis:
            return await calls(redis)


async def during(redis: Redis, seconds: float) -> Calls:
    """What runs while nobody asks for anything."""
    before = await calls(redis)
    await asyncio.sleep(seconds)
    return difference(before, await calls(redis))


async def placements(queue_redis: Redis, worker_redis: Redis, jobs: int) -> list[float]:
    """Seconds from before the enqueue of a turn's hint until a waiting worker claims it."""
    keys = Keys("agcbench")
    claimed: asyncio.Queue[tuple[TurnId, float]] = asyncio.Queue()

    async def claim(turn: TurnId) -> None:
        claimed.put_nowait((turn, time.perf_counter()))

    worker = PlacementWorker(
        worker_redis, keys, new_worker_id(HostId("bench")), claim=claim, has_room=lambda: True
    )
    queue = PlacementQueue(queue_redis, keys)
    took: list[float] = []
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(worker.run())
        for _ in range(jobs):
            took.append(await _placed(queue, claimed))
        await _tidied(queue_redis, keys)
        serving.cancel()
    return took


async def _placed(queue: PlacementQueue, claimed: asyncio.Queue[tuple[TurnId, float]]) -> float:
    turn, began_s = new_turn_id(), time.perf_counter()
    await queue.enqueue(turn, None)
    async with asyncio.timeout(PLACED_WITHIN_S):
        while True:
            placed, at_s = await claimed.get()
            if placed == turn:
                return at_s - began_s


async def _tidied(redis: Redis, keys: Keys) -> None:
    """arq takes a job out of its queue after the claim; leaving before that looks like a crash."""
    async with asyncio.timeout(PLACED_WITHIN_S):
        for _ in range(1000):
            if not await redis.zcard(keys.place_queue()):
                return
            await asyncio.sleep(0.01)
