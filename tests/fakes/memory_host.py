"""Container hosts without containers: an agent server in this process, behind the same seam.

A `MemoryMachine` stands for the machine: its containers outlive every `MemoryHost`, as real ones
outlive a worker. What runs in a container is a factory's affair: an async context manager that
listens on `agent.sock` of the spec's folder while it is open.

    async with MemoryMachine(lambda spec: ScriptedAgent(spec.folders.sockets, ...)) as machine:
        host = MemoryHost(machine)

Fakes named for the trouble they act out: `NeverReadyHost`, `SlowHost`, `VanishingHost`,
`EarlyEndHost`, `BrokenHost`, `PickyHost`, `StepwiseHost`, `StubbornHost`, `UnheardHost`,
`UnlistedHost`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

from infra.runtime.clock import Clock, SystemClock
from infra.wire.errors import ContainerFailed, EngineFailed, LeaseLost, NoIsolation
from infra.wire.ids import ConversationKey, HostId
from worker.hosts.exit_feed import ExitFeed, ExitStream
from worker.hosts.host import Container, ContainerExit, ContainerId, ContainerSpec

AgentFactory = Callable[[ContainerSpec], AbstractAsyncContextManager[Any]]

KILLED = 137
START_MAX_S = 10.0
HOST = HostId("host-1")


@dataclass
class _Kept:
    """A container of the machine and the task its agent lives in."""

    container: Container
    cluster: str
    host: HostId
    task: asyncio.Task[None]


@asynccontextmanager
async def no_agent(spec: ContainerSpec) -> AsyncIterator[None]:
    """A container in which nothing ever listens."""
    yield


class MemoryMachine:
    """The machine: owns the containers, whatever becomes of the hosts."""

    def __init__(self, agent: AgentFactory = no_agent) -> None:
        self.agent = agent
        self.feed = ExitFeed()
        self.kept: dict[ContainerId, _Kept] = {}
        self.cpus: dict[ContainerId, float] = {}
        """The limit that each container got after its start."""
        self.unlinked_bytes = 0
        """What each container holds open that is in no folder."""
        self._numbers = count(1)
        self._group = asyncio.TaskGroup()

    async def __aenter__(self) -> MemoryMachine:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for kept in self.kept.values():
            kept.task.cancel()
        await self._group.__aexit__(kind, error, traceback)

    async def run(
        self, spec: ContainerSpec, *, cluster: str, host: HostId, created_ms: int
    ) -> Container:
        """A new container; its agent listens when this returns, or it fails."""
        id = ContainerId(f"memory-{next(self._numbers)}")
        up: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        task = self._group.create_task(self._live(id, spec, up))
        container = Container(id, spec.conversation, spec.fence, True, created_ms, spec.form)
        self.kept[id] = _Kept(container, cluster, host, task)
        try:
            await asyncio.shield(up)
        except BaseException:
            # As on a real machine, a start goes on for a while when its caller has gone; asyncio
            # leaks the socket of a server that is cancelled while it starts.
            await asyncio.wait([up], timeout=START_MAX_S)
            await self.remove(id)
            raise
        return container

    async def end(self, id: ContainerId, *, exit_code: int, is_out_of_memory: bool) -> None:
        """End the container's process; the container stays, stopped, until it is removed."""
        kept = self.kept.get(id)
        if kept is None or not kept.container.is_running:
            return
        kept.container = replace(kept.container, is_running=False)
        kept.task.cancel()
        await asyncio.wait([kept.task])
        self.feed.publish(
            ContainerExit(id, kept.container.conversation, exit_code, is_out_of_memory)
        )

    async def remove(self, id: ContainerId) -> None:
        self.feed.expect_end(id)
        await self.end(id, exit_code=143, is_out_of_memory=False)
        self.kept.pop(id, None)

    async def kill(self, conversation: ConversationKey, *, is_out_of_memory: bool = True) -> None:
        """What a `kill -9` or the kernel does, for tests."""
        for id in [i for i, k in self.kept.items() if k.container.conversation == conversation]:
            await self.end(id, exit_code=KILLED, is_out_of_memory=is_out_of_memory)

    async def _live(self, id: ContainerId, spec: ContainerSpec, up: asyncio.Future[None]) -> None:
        # A real process closes its sockets by dying; a cancelled task does it here.
        try:
            async with self.agent(spec):
                up.set_result(None)
                await asyncio.get_running_loop().create_future()
        except Exception as error:
            # Whatever the agent's start raises is this container's failure, not the machine's.
            if up.done():
                raise
            up.set_exception(ContainerFailed(f"the agent did not start: {error!r}"))
        finally:
            with contextlib.suppress(FileNotFoundError):
                (spec.folders.sockets / "agent.sock").unlink()


class MemoryHost:
    """`ContainerHost` on a `MemoryMachine`."""

    name = "memory"

    def __init__(
        self,
        machine: MemoryMachine,
        *,
        host: HostId = HOST,
        cluster: str = "test",
        clock: Clock | None = None,
    ) -> None:
        self.machine = machine
        self.host = host
        self._cluster = cluster
        self._clock = clock or SystemClock()

    async def check(self) -> None:
        """See `ContainerHost`: memory is always there."""

    async def start(self, spec: ContainerSpec) -> Container:
        """See `ContainerHost`."""
        for found in await self.list():
            if found.conversation == spec.conversation:
                if found.fence > spec.fence:
                    raise LeaseLost(spec.conversation, spec.fence)
                await self.machine.remove(found.id)
        return await self.machine.run(
            spec, cluster=self._cluster, host=self.host, created_ms=self._clock.unix_ms()
        )

    async def limit_cpus(self, id: ContainerId, cpus: float) -> None:
        """See `ContainerHost`."""
        self.machine.cpus[id] = cpus

    async def stop(self, id: ContainerId, *, grace_s: float = 2.0) -> None:
        """See `ContainerHost`."""
        await self.machine.remove(id)

    async def list(self) -> Sequence[Container]:
        """See `ContainerHost`."""
        kept = self.machine.kept.values()
        ours = (self._cluster, self.host)
        return [k.container for k in kept if (k.cluster, k.host) == ours]

    async def unlinked_bytes(self, id: ContainerId, workspace: Path) -> int:
        """See `ContainerHost`: what a test says."""
        return self.machine.unlinked_bytes

    def exits(self) -> ExitStream:
        """See `ContainerHost`."""
        return self.machine.feed.subscribe()

    async def aclose(self) -> None:
        """See `ContainerHost`."""


class NeverReadyHost(MemoryHost):
    """Its containers run, but no agent ever listens in them."""

    async def start(self, spec: ContainerSpec) -> Container:
        self.machine.agent = no_agent
        return await super().start(spec)


class SlowHost(MemoryHost):
    """A start takes until the test sets `released`. `asked` is set when one is waiting."""

    def __init__(self, machine: MemoryMachine, *, host: HostId = HOST) -> None:
        super().__init__(machine, host=host)
        self.asked = asyncio.Event()
        self.released = asyncio.Event()

    async def start(self, spec: ContainerSpec) -> Container:
        self.asked.set()
        await self.released.wait()
        return await super().start(spec)


class StepwiseHost(MemoryHost):
    """Each start takes until the test releases it. `starting` are those under way, in order."""

    def __init__(self, machine: MemoryMachine, *, host: HostId = HOST) -> None:
        super().__init__(machine, host=host)
        self.starting: dict[ConversationKey, asyncio.Event] = {}
        self.most_at_once = 0

    async def start(self, spec: ContainerSpec) -> Container:
        released = self.starting[spec.conversation] = asyncio.Event()
        self.most_at_once = max(self.most_at_once, len(self.starting))
        try:
            await released.wait()
            return await super().start(spec)
        finally:
            del self.starting[spec.conversation]

    def release(self) -> ConversationKey:
        """Let the one go on that began first; whose it is."""
        c = next(c for c, released in self.starting.items() if not released.is_set())
        self.starting[c].set()
        return c


class VanishingHost(MemoryHost):
    """Its first `vanishing` containers are killed as soon as they run."""

    def __init__(self, machine: MemoryMachine, *, host: HostId = HOST, vanishing: int = 1) -> None:
        super().__init__(machine, host=host)
        self._left = vanishing

    async def start(self, spec: ContainerSpec) -> Container:
        container = await super().start(spec)
        if self._left > 0:
            self._left -= 1
            await self.machine.kill(spec.conversation, is_out_of_memory=False)
        return container


class EarlyEndHost(MemoryHost):
    """Its first container ends at once, and its watchers are told before its start returns."""

    def __init__(self, machine: MemoryMachine) -> None:
        super().__init__(machine)
        self.starts = 0
        self._told = asyncio.Event()

    async def start(self, spec: ContainerSpec) -> Container:
        self.starts += 1
        container = await super().start(spec)
        if self.starts == 1:
            await self.machine.kill(spec.conversation, is_out_of_memory=False)
            await self._told.wait()
        return container

    def exits(self) -> AsyncIterator[ContainerExit]:  # type: ignore[override]
        return self._telling(self.machine.feed.subscribe())

    async def _telling(self, exits: ExitStream) -> AsyncIterator[ContainerExit]:
        async for exit in exits:
            yield exit
            self._told.set()


class BrokenHost(MemoryHost):
    """Its engine starts nothing until `mend`; `starts` counts what it was asked for."""

    def __init__(self, machine: MemoryMachine, *, host: HostId = HOST) -> None:
        super().__init__(machine, host=host)
        self.is_broken = True
        self.starts = 0

    def mend(self) -> None:
        self.is_broken = False

    async def check(self) -> None:
        if self.is_broken:
            raise NoIsolation("no engine answers")

    async def start(self, spec: ContainerSpec) -> Container:
        self.starts += 1
        if self.is_broken:
            raise EngineFailed("cannot create a container: no space left on device")
        return await super().start(spec)


class PickyHost(MemoryHost):
    """Its engine starts every conversation's container but one's."""

    def __init__(self, machine: MemoryMachine, refused: ConversationKey) -> None:
        super().__init__(machine)
        self._refused = refused

    async def start(self, spec: ContainerSpec) -> Container:
        if spec.conversation == self._refused:
            raise EngineFailed("cannot start this one")
        return await super().start(spec)


class StubbornHost(MemoryHost):
    """Its containers do not stop while it `resists`: it says so, or (`hangs`) says nothing."""

    def __init__(self, machine: MemoryMachine, *, hangs: bool = False) -> None:
        super().__init__(machine)
        self.resists = True
        self.asked = asyncio.Event()
        self._hangs = hangs

    async def stop(self, id: ContainerId, *, grace_s: float = 2.0) -> None:
        self.asked.set()
        if self.resists and self._hangs:
            await asyncio.Event().wait()
        if self.resists:
            raise ContainerFailed("it does not die")
        await super().stop(id, grace_s=grace_s)


class UnheardHost(MemoryHost):
    """What its engine answers to a stop is not heard until the test sets `heard`."""

    def __init__(self, machine: MemoryMachine) -> None:
        super().__init__(machine)
        self.asked = asyncio.Event()
        self.heard = asyncio.Event()

    async def stop(self, id: ContainerId, *, grace_s: float = 2.0) -> None:
        await super().stop(id, grace_s=grace_s)
        self.asked.set()
        await self.heard.wait()


class UnlistedHost(MemoryHost):
    """Its engine does not say what it has until `is_listed`; `asked` is set when it was asked."""

    def __init__(self, machine: MemoryMachine) -> None:
        super().__init__(machine)
        self.is_listed = False
        self.asked = asyncio.Event()

    async def list(self) -> Sequence[Container]:
        if not self.is_listed:
            self.asked.set()
            raise ContainerFailed("no engine answers")
        return await super().list()


class RefusingHost(MemoryHost):
    """A machine on which nothing can isolate an agent."""

    async def check(self) -> None:
        raise NoIsolation("nothing is installed here")

    async def start(self, spec: ContainerSpec) -> Container:
        raise ContainerFailed("nothing is installed here")
