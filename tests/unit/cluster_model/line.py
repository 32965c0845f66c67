"""A process's connection to the virtual Redis, with everything that happens to connections."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from infra.store.keys import Keys
from infra.store.server.calls import Call, shape_of
from infra.store.server.scripts import load
from tests.fakes.virtual_redis import VirtualRedis
from tests.fakes.virtual_time import Kernel, Process, pause

TIMEOUT_S = 5.0


class Moment(StrEnum):
    """Where in a command's life a trap springs."""

    UNSENT = "before it is sent"
    UNHEARD = "before its answer is heard"


class Spring(StrEnum):
    """What a trap does."""

    FREEZE = "freezes the worker"
    KILL = "kills it"
    SUSPEND = "suspends its machine"
    LOSE = "loses the answer"


@dataclass(frozen=True)
class Trap:
    """What befalls a worker in the middle of the next such script."""

    script: str
    moment: Moment
    for_s: float
    spring: Spring


class Line:
    """As much of `redis.asyncio.Redis` as the parts of the store need that the model uses."""

    def __init__(
        self,
        server: VirtualRedis,
        process: Process,
        kernel: Kernel,
        chance: random.Random,
        *,
        keys: Keys,
        on_script: Callable[[str, Mapping[str, Any]], None],
        on_error: Callable[[Exception], None],
    ) -> None:
        """`on_script` hears of each script before it runs: its arguments by name, rows as a list of
        such, its keys as KEYS.

        `on_error` hears of commands the server refuses: none of ours may be.
        """
        self._server = server
        self.process = process
        self._scripts = _scripts(keys)
        self._kernel = kernel
        self._chance = chance
        self._on_script = on_script
        self._on_error = on_error
        self.trap: Trap | None = None
        self.suspend: Callable[[float], None] = lambda for_s: None
        """Suspends the machine."""
        self.cut_until_s = 0.0
        """Every connection is refused."""
        self.hole_until_s = 0.0
        """Nothing is answered; what was sent may have arrived."""
        self.lossy_until_s = 0.0
        """One answer in two is lost, its connection with it."""

    async def execute_command(self, *command: Any) -> Any:
        """One command; as the real client, it tries once more over a new connection."""
        try:
            return await self._once(command)
        except RedisConnectionError:
            return await self._once(command)

    async def hgetall(self, name: str) -> dict[bytes, bytes]:
        found = await self.execute_command("HGETALL", name)
        return dict(zip(found[::2], found[1::2], strict=True))

    async def hget(self, name: str, field: str) -> Any:
        return await self.execute_command("HGET", name, field)

    async def smembers(self, name: str) -> set[bytes]:
        return set(await self.execute_command("SMEMBERS", name))

    async def _once(self, command: tuple[Any, ...]) -> Any:
        call = self._scripts[_sha(command)] if command[0] in ("EVALSHA", "EVAL") else None
        script = None if call is None else call.script
        await self._spring(script, Moment.UNSENT)
        await pause(self._chance.uniform(0.0002, 0.002))
        if self._kernel.now_s < self.cut_until_s:
            raise RedisConnectionError("refused")
        is_hole = self._kernel.now_s < self.hole_until_s
        if is_hole and self._chance.random() < 0.5:
            await pause(TIMEOUT_S)
            raise RedisTimeoutError("nothing came back")
        if call is not None:
            self._on_script(call.script, _named(call, command))
        try:
            answer = self._server.execute(*command)
        except NoScriptError:
            raise
        except ResponseError as error:
            self._on_error(error)
            raise
        await self._spring(script, Moment.UNHEARD)
        await pause(self._chance.uniform(0.0002, 0.002))
        if is_hole:
            await pause(TIMEOUT_S)
            raise RedisTimeoutError("nothing came back")
        if self._kernel.now_s < self.lossy_until_s and self._chance.random() < 0.5:
            raise RedisConnectionError("the answer is lost")
        return answer

    async def _spring(self, script: str | None, moment: Moment) -> None:
        trap = self.trap
        if trap is None or (trap.script, trap.moment) != (script, moment):
            return
        self.trap = None
        match trap.spring:
            case Spring.KILL:
                self.process.is_dead = True
            case Spring.FREEZE:
                self.process.frozen_until_s = self._kernel.now_s + trap.for_s
            case Spring.SUSPEND:
                self.suspend(trap.for_s)
            case Spring.LOSE:
                raise RedisTimeoutError("nothing came back")
        await pause(0)


@cache
def _scripts(keys: Keys) -> dict[str, type[Call[Any]]]:
    """What the store calls, by the digests that travel."""
    calls = (call for call in Call.__subclasses__() if call.__module__.startswith("infra."))
    return {load(call, keys).sha: call for call in calls}


def _sha(command: Sequence[Any]) -> str:
    if command[0] == "EVALSHA":
        return str(command[1])
    return hashlib.sha1(str(command[1]).encode(), usedforsecurity=False).hexdigest()


def _named(call: type[Call[Any]], command: Sequence[Any]) -> dict[str, Any]:
    first = 3 + int(command[2])
    shape, sent = shape_of(call), command[first:]
    named = {"KEYS": command[3:first], **dict(zip(shape.names, sent, strict=False))}
    if shape.rows and shape.columns:
        values = iter(sent[len(shape.names) :])
        rows = zip(*[values] * len(shape.columns), strict=True)
        named[shape.rows] = [dict(zip(shape.columns, row, strict=True)) for row in rows]
    return named
