"""One `Machine` per kind of host: makes host objects, kills containers, and counts leftovers."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol, Self

import pytest

from infra.wire.ids import ConversationKey, Fence, HostId, WorkerId
from tests.fakes import probe
from tests.fakes.memory_host import MemoryHost, MemoryMachine
from tests.parts import need
from worker.hosts.bubblewrap.cgroups import CgroupRoot
from worker.hosts.bubblewrap.host import BubblewrapHost, BubblewrapOptions
from worker.hosts.docker.engine import engine_address
from worker.hosts.docker.host import DockerHost, DockerOptions
from worker.hosts.folders.folders import Folders
from worker.hosts.host import Container, ContainerHost, ContainerId, ContainerSpec, Limits
from worker.hosts.pool.host import PooledHost
from worker.hosts.pool.records import SpareRecords

BASE_IMAGE = os.environ.get("AGCLUSTER_BASE_IMAGE", "python:3.11-slim-bookworm")
RUNTIME = os.environ.get("AGCLUSTER_CONTAINER_RUNTIME", "runc")
LIMITS = Limits(cpus=1.0, memory_mb=256, pids=64, tmp_mb=16)


class Machine(Protocol):
    """What the suite needs of the thing behind a host."""

    data_dir: Path

    def host(self, name: str = "host-1") -> ContainerHost:
        """Another host object for the same containers; closed after the test."""
        ...

    def spec(
        self,
        conversation: ConversationKey | None = None,
        fence: int = 1,
        data_dir: Path | None = None,
    ) -> ContainerSpec:
        """A container to be, with its folders made; `data_dir`: elsewhere than the machine's."""
        ...

    def another_cluster(self) -> Machine:
        """The same machine, with another cluster's containers."""
        ...

    async def kill(self, spec: ContainerSpec, id: ContainerId) -> None:
        """Kill its processes from outside, as the kernel would."""
        ...


class _Machine:
    """Folders and clean-up, for every kind."""

    def __init__(self, data_dir: Path, opened: AsyncExitStack) -> None:
        self.data_dir = data_dir
        self.cluster = f"test-{secrets.token_hex(4)}"
        self._opened = opened
        self.conversations: list[str] = ["-"]

    def spec(
        self,
        conversation: ConversationKey | None = None,
        fence: int = 1,
        data_dir: Path | None = None,
    ) -> ContainerSpec:
        conversation = conversation or ConversationKey(secrets.token_hex(12))
        self.conversations.append(conversation)
        folders = Folders(data_dir or self.data_dir).make(conversation, Fence(fence))
        return ContainerSpec(conversation, Fence(fence), folders, LIMITS, egress=False)

    def _kept(self, host: ContainerHost) -> ContainerHost:
        self._opened.push_async_callback(host.aclose)
        return host

    def another_cluster(self) -> Self:
        other = copy.copy(self)
        other.cluster = f"{self.cluster}-other"
        return other


class _Memory(_Machine):
    def __init__(self, data_dir: Path, opened: AsyncExitStack, machine: MemoryMachine) -> None:
        super().__init__(data_dir, opened)
        self._machine = machine

    def host(self, name: str = "host-1") -> ContainerHost:
        return self._kept(MemoryHost(self._machine, host=HostId(name), cluster=self.cluster))

    async def kill(self, spec: ContainerSpec, id: ContainerId) -> None:
        await self._machine.kill(spec.conversation)


class DockerMachine(_Machine):
    """Docker; `engine` is another way to it."""

    def host(self, name: str = "host-1", *, engine: str | None = None) -> ContainerHost:
        options = DockerOptions(
            BASE_IMAGE,
            self.cluster,
            engine=engine or engine_address(),
            call_timeout_s=40,
            runtime=RUNTIME,
            command=probe.DOCKER_COMMAND,
        )
        return self._kept(DockerHost(HostId(name), options))

    async def kill(self, spec: ContainerSpec, id: ContainerId) -> None:
        # The signal of the engine is no different from the kernel's.
        await output_of("docker", "kill", "--signal", "KILL", id)


class BubblewrapMachine(_Machine):
    def host(self, name: str = "host-1") -> ContainerHost:
        options = BubblewrapOptions(
            self.cluster, self.data_dir, call_timeout_s=40, command=probe.BUBBLEWRAP_COMMAND
        )
        return self._kept(BubblewrapHost(HostId(name), options))

    async def kill(self, spec: ContainerSpec, id: ContainerId) -> None:
        noted = json.loads((self.data_dir / "b" / id / "process.json").read_text())
        os.kill(noted["init"]["pid"], signal.SIGKILL)


WORKER = WorkerId("host-1-worker")


def pooled(machine: Machine, host: ContainerHost) -> PooledHost:
    """The host as a worker has it, which may hand out its containers as spares."""
    return PooledHost(host, SpareRecords(machine.data_dir), Folders(machine.data_dir))


async def started_as_spare(machine: Machine, host: PooledHost) -> tuple[ContainerSpec, Container]:
    """A spare that runs."""
    spec = machine.spec()
    await host.make(spec.conversation, WORKER)
    return spec, await host.start(spec)


async def claimed(
    machine: Machine, host: PooledHost, c: ConversationKey | None = None
) -> tuple[ContainerSpec, Container]:
    """A spare that a conversation has claimed, as the conversation sees it."""
    spec, container = await started_as_spare(machine, host)
    await probe.listening(spec.folders.sockets)
    c = c or ConversationKey(secrets.token_hex(12))
    taken = await host.claim(container, c, Fence(5), by=WORKER)
    folders = Folders(machine.data_dir).of(c)
    return replace(spec, conversation=c, fence=Fence(5), folders=folders), taken


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A short path that the agent's uid can reach: pytest's own are neither."""
    made = Path(tempfile.mkdtemp(prefix="agc-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


async def output_of(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(40):
        output, _ = await process.communicate()
    assert process.returncode == 0, command
    return output.decode()


@asynccontextmanager
async def _listening(spec: ContainerSpec) -> AsyncIterator[None]:
    """The in-memory stand-in for the probe: it listens and hangs up."""

    def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    path = spec.folders.sockets / "agent.sock"
    path.unlink(missing_ok=True)
    async with await asyncio.start_unix_server(hang_up, path):
        yield


@asynccontextmanager
async def _memory(data_dir: Path) -> AsyncIterator[Machine]:
    async with MemoryMachine(_listening) as memory, AsyncExitStack() as opened:
        machine = _Memory(data_dir, opened, memory)
        yield machine
        await _sweep(machine)


@asynccontextmanager
async def docker_machine(data_dir: Path) -> AsyncIterator[DockerMachine]:
    need("docker")
    async with AsyncExitStack() as opened:
        machine = DockerMachine(data_dir, opened)
        yield machine
        await _sweep(machine)
    left = await output_of(
        "docker", "ps", "-aq", "--filter", f"label=agcluster.cluster={machine.cluster}"
    )
    assert left == "", "the test left containers behind"


@asynccontextmanager
async def bubblewrap_machine(data_dir: Path) -> AsyncIterator[BubblewrapMachine]:
    need("bwrap")
    async with AsyncExitStack() as opened:
        machine = BubblewrapMachine(data_dir, opened)
        yield machine
        await _sweep(machine)
    left = [path.name for path in (data_dir / "b").glob("*") if path.name[:5] != ".lock"]
    assert left == [], "the test left sandboxes behind"
    groups = CgroupRoot.find() if os.geteuid() == 0 else None
    kept = [path.name for folder in (groups.folders if groups else ()) for path in folder.iterdir()]
    left = [name for name in kept if name.startswith(tuple(machine.conversations))]
    assert left == [], "the test left control groups behind"


async def _sweep(machine: Machine) -> None:
    for name in ("host-1", "host-2"):
        host = machine.host(name)
        for container in await host.list():
            await host.stop(container.id, grace_s=0)
        assert await host.list() == []


_KINDS: dict[str, Callable[[Path], AbstractAsyncContextManager[Machine]]] = {
    "memory": _memory,
    "bubblewrap": bubblewrap_machine,
    "docker": docker_machine,
}
REAL = [
    pytest.param("bubblewrap", marks=pytest.mark.bwrap),
    pytest.param("docker", marks=pytest.mark.docker),
]


@pytest.fixture(params=["memory", *REAL])
async def machine(request: pytest.FixtureRequest, data_dir: Path) -> AsyncIterator[Machine]:
    """Every kind of host."""
    async with _KINDS[request.param](data_dir) as made:
        yield made


@pytest.fixture(params=REAL)
async def real_machine(request: pytest.FixtureRequest, data_dir: Path) -> AsyncIterator[Machine]:
    """Every kind that really isolates."""
    async with _KINDS[request.param](data_dir) as made:
        yield made
