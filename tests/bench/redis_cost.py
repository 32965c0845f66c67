"""What Redis was asked to do, by its own counters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from redis.asyncio import Redis

Calls = Mapping[str, int]
_OURS = frozenset({"info", "config", "client"})
_SCRIPTS = ("evalsha", "eval", "fcall")
_ASKED = (*_SCRIPTS, "publish", "xrange", "blpop", "exec", "hgetall")


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
