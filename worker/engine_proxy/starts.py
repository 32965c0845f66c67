"""Compares started containers: one with other folders than were checked is removed.

A path that was a folder when the container was created may be a link when it is mounted. So each
container is unverified from its start until its mounts were found to be right, or it no longer
runs. A wrong container is removed, again and again until the engine reports that it is gone. A
proxy that starts checks all running containers, because the previous proxy may have been killed
between a start and its check.

Nothing that a worker does may delay this. So it has its own connections to the engine, and accepts
no more concurrent starts than it has connections.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import aiohttp

from infra.runtime.logs import fields
from worker.engine_proxy.line import EngineLine
from worker.engine_proxy.mounts import (
    SHARING_RUNTIMES,
    EngineCallRefused,
    Look,
    first_wrong_mount,
)
from worker.engine_proxy.rules import OwnContainer, Rules

log = logging.getLogger(__name__)

STARTS_MAX = 32
"""Concurrent starts; containers that cannot be removed count too."""
_LOOKS, _LOOK_PAUSE_S = 20, 0.05
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0
_FAILURES = (EngineCallRefused, aiohttp.ClientError, OSError, TimeoutError, ValueError)

_Answer = TypeVar("_Answer")


class ComparedStarts:
    """Used between `setup` and `aclose`; `run` must run meanwhile."""

    def __init__(self, rules: Rules, *, socket: str, call_timeout_s: float, look: Look) -> None:
        """`look` sees what a process has mounted."""
        self.has_looked = asyncio.Event()
        """Whether all containers that ran at startup were compared."""
        self._rules = rules
        self._look = look
        self._call_timeout_s = call_timeout_s
        # For starts, removals and the check of all: none of them waits for another's connection.
        self._line = EngineLine(
            socket, connections=2 * STARTS_MAX + 1, call_timeout_s=call_timeout_s
        )
        self._unverified = set[str]()
        self._removals: dict[str, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None

    async def setup(self) -> None:
        """Prepare to call the engine. Starts are accepted while `run` runs."""
        await self._line.setup()

    async def aclose(self) -> None:
        """Let go of the engine."""
        await self._line.aclose()

    async def run(self) -> None:
        """Check all running containers and remove wrong ones, until cancelled.

        What could not be removed by then is left to the first check of the next proxy.
        """
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                await self._look_at_all()
                await asyncio.Event().wait()
            finally:
                self._group = None

    async def start(self, version: str, ours: OwnContainer, id: str) -> tuple[int, bytes]:
        """Start it and return the engine's answer.

        Raises `EngineCallRefused` and the errors of an engine call; then the container is gone
        again, or is being removed.
        """
        if id in self._unverified:
            raise EngineCallRefused("it is being started or removed")
        if self._group is None:
            raise EngineCallRefused("the proxy is not ready, or about to end")
        if len(self._unverified) >= STARTS_MAX:
            raise EngineCallRefused("too many starts at once")
        self._unverified.add(id)
        async with asyncio.TaskGroup() as group:
            starting = group.create_task(self._compared(version, ours, id))
            try:
                outcome = await asyncio.shield(starting)
            except asyncio.CancelledError:
                # A worker that disconnects must not escape the comparison, because the engine
                # continues.
                await asyncio.wait({starting})
                raise
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def _compared(
        self, version: str, ours: OwnContainer, id: str
    ) -> tuple[int, bytes] | Exception:
        is_right = True
        try:
            with self._rules.held_folders(ours) as held:
                is_right = False
                answer = await self._line.ask("POST", f"/v{version}/containers/{id}/start")
                await self._refuse_wrong(ours, id, held)
            is_right = True
            return answer
        except _FAILURES as error:
            return error
        finally:
            if is_right:
                self._unverified.discard(id)
            else:
                await self._begin_removal(id)

    async def _begin_removal(self, id: str) -> None:
        """Start its removal, and wait for that a while."""
        if removal := self._removal(id):
            await asyncio.wait({removal}, timeout=self._call_timeout_s)

    async def _refuse_wrong(self, ours: OwnContainer, id: str, held: Mapping[str, int]) -> None:
        if self._rules.options.runtime in SHARING_RUNTIMES:
            wrong = await self._wrong_mount(id, held)
        else:
            wrong = self._rules.first_exchanged(ours, held)
        if wrong is not None:
            raise EngineCallRefused(wrong)

    async def _wrong_mount(self, id: str, held: Mapping[str, int]) -> str | None:
        while pid := await self._pid_of(id):
            try:
                return await asyncio.to_thread(first_wrong_mount, held, pid, self._look)
            except (ProcessLookupError, FileNotFoundError) as error:
                if not await self._has_ended(id, pid):
                    return f"process {pid} cannot be seen ({error.strerror}): pid: host is missing"
        return None

    async def _has_ended(self, id: str, pid: int) -> bool:
        """Whether this process of it is gone, as far as the engine knows."""
        for _ in range(_LOOKS):
            if await self._pid_of(id) != pid:
                return True
            # The engine learns of an end a moment later, and cannot be asked when.
            await asyncio.sleep(_LOOK_PAUSE_S)
        return False

    async def _pid_of(self, id: str) -> int:
        """The process that runs in it; 0 if the engine knows that there is none."""
        status, answer = await self._line.ask("GET", f"/containers/{id}/json")
        if status == 404:
            return 0
        if status != 200:
            raise EngineCallRefused(f"the engine does not tell what runs in it: status {status}")
        state = json.loads(answer).get("State") or {}
        return int(state.get("Pid") or 0) if state.get("Running") else 0

    # Removals

    def _removal(self, id: str) -> asyncio.Task[None] | None:
        """None if this proxy stops; then the removal is left to the next one."""
        self._unverified.add(id)
        if id not in self._removals and self._group is not None:
            self._removals[id] = self._group.create_task(self._remove(id))
        return self._removals.get(id)

    async def _remove(self, id: str) -> None:
        await _until_done(lambda: self._is_gone(id), f"container {id} has to go")
        log.warning("unverified container removed", extra=fields(id=id))
        self._unverified.discard(id)
        del self._removals[id]

    async def _is_gone(self, id: str) -> bool:
        query = {"v": "1", "force": "1"}
        status, _ = await self._line.ask("DELETE", f"/containers/{id}", query=query)
        if status not in (204, 404):
            raise EngineCallRefused(f"the engine does not remove it: status {status}")
        return True

    # Containers that ran before

    async def _look_at_all(self) -> None:
        running = await _until_done(self._running, "running containers are to be looked at")
        for id in running:
            if id not in self._unverified:
                await _until_done(
                    functools.partial(self._look_again, id), f"{id} is to be looked at"
                )
        self.has_looked.set()

    async def _running(self) -> list[str]:
        status, answer = await self._line.ask("GET", "/containers/json", query=self._rules.running)
        if status != 200:
            raise EngineCallRefused(f"the engine does not list them: status {status}")
        return [str(one["Id"]) for one in json.loads(answer)]

    async def _look_again(self, id: str) -> None:
        status, answer = await self._line.ask("GET", f"/containers/{id}/json")
        if status == 404:
            return
        if status != 200:
            raise EngineCallRefused(f"the engine does not describe it: status {status}")
        described = json.loads(answer)
        try:
            ours = self._rules.own_container(described)
            with self._rules.held_folders(ours) as held:
                await self._refuse_wrong(ours, id, held)
        except EngineCallRefused as error:
            log.warning("a container is not right: %s", error, extra=fields(id=id))
            self._removal(id)


async def _until_done(step: Callable[[], Awaitable[_Answer]], what: str) -> _Answer:
    """Repeat until it succeeds."""
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            return await step()
        except _FAILURES as error:
            log.warning("%s, trying again: %r", what, error)
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
