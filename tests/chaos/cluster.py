"""A cluster of real processes on this machine, for faults to be done to.

    async with cluster(Shape(workers=(2, 1))) as running:
        await running.hosts[0].workers[0].kill()

API replicas, a real Redis (behind a fault proxy if wanted) and hosts: each with a data folder, a
gateway and workers of its own. `Agents.LIGHT` hosts keep scripted agents in one process (`farm`):
for all that does not concern containers, at a hundredth of the cost. On the others a real CLI runs
in bubblewrap or Docker against the scripted model. Whatever was started or left behind is gone when
the block ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from infra.cli.up.programs import MODULES, bare_environment, environment, python_command
from infra.runtime.identity import conversation_key, tenant_id
from infra.runtime.settings import Isolation, Settings
from infra.store.conversations.conversations import ConversationRecord
from infra.store.open import Store, open_store
from infra.wire.errors import ContainerFailed, StoreUnavailable
from infra.wire.files.shown import ArtifactDisplay
from infra.wire.ids import ConversationKey
from tests.chaos.farm_host import FarmHost
from tests.chaos.processes import Process
from tests.e2e.deployments import MODEL, free_port
from tests.fakes.redis_proxy import RedisProxy, redis_proxy
from tests.fakes.redis_sentinel import SentinelCluster, sentinels
from tests.fakes.redis_server import RealRedis, real_redis
from tests.parts import AGENT_IMAGE
from worker.hosts.bubblewrap.records import SandboxRecords
from worker.hosts.docker.engine import engine_address
from worker.hosts.folders.folders import Folders
from worker.hosts.host import Container, ContainerHost
from worker.hosts.isolation import host_of
from worker.hosts.pool.host import PooledHost
from worker.hosts.pool.records import SpareRecords

SECRET = "a secret for the chaos tests: long enough"
CONTENT_SECRET = "another one that seals what is said to agents"
READY_S = 60.0
LEAVE_S = 40.0
"""A program that leaves may take this long; beyond it, it is killed and the run has failed."""
PLENTY_MB = 64_000
"""Available memory of a machine with which nothing is wrong."""
_LOOK_S = 0.1


class Agents(StrEnum):
    """What agents are in a cluster."""

    LIGHT = "light"
    BUBBLEWRAP = "bubblewrap"
    DOCKER = "docker"


@dataclass(frozen=True)
class Shape:
    """What a cluster is made of. `workers`: how many on each host."""

    agents: Agents = Agents.LIGHT
    replicas: int = 2
    workers: tuple[int, ...] = (2,)
    engines: tuple[str, ...] = ()
    """The hosts' Docker engines, where they are not all the one of our own environment."""
    has_proxy: bool = False
    has_sentinels: bool = False
    """A primary, a replica and Sentinels in the place of the one server."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Beside or instead of the cluster's own."""


class Host:
    """A machine: its containers' engine, its gateway, its workers."""

    def __init__(self, settings: Settings, engine: ContainerHost) -> None:
        self.settings = settings
        self.engine = engine
        self.gateway: Process | None = None
        self.farm: Process | None = None
        self.workers: list[Process] = []

    @property
    def name(self) -> str:
        return self.settings.host_name

    def processes(self) -> list[Process]:
        """All of them, in the order to start them in."""
        return [one for one in (self.farm, self.gateway, *self.workers) if one]

    def workspace(self, c: ConversationKey) -> Path:
        """Where a conversation's files are on this machine."""
        return self.settings.data_dir / "w" / c

    def has_memory(self, available_mb: int) -> None:
        """What the machine's kernel says from now on."""
        file = self.settings.meminfo_file
        # Not written in place: a worker would find it empty.
        new = file.with_suffix(".new")
        new.write_text(f"MemAvailable: {available_mb * 1024} kB\n")
        new.replace(file)

    async def lose(self) -> None:
        """The machine is gone: all its processes at once, and its containers with them."""
        for one in self.processes():
            await one.kill()
        if self.farm is None:
            await self.stop_containers()

    async def start(self) -> None:
        """Start what does not run."""
        if self.farm is not None and not self.farm.is_running:
            self._farm_socket.unlink(missing_ok=True)
            self.farm.start()
            await until("the farm", self._farm_listens)
        for one in self.processes():
            one.start()

    async def stop_containers(self) -> None:
        """Stop every container of the cluster here, no matter who owns it."""
        for container in await self.containers():
            await self.engine.stop(container.id, grace_s=0)

    async def kill_container(self, c: ConversationKey) -> None:
        """Kill what runs in a conversation's container, as the kernel would."""
        if isinstance(self.engine, FarmHost):
            await self.engine.kill(c)
        elif self.settings.isolation is Isolation.BUBBLEWRAP:
            self._kill_sandbox(c)
        else:
            for one in await self.containers():
                if one.conversation == c:
                    await self.engine.stop(one.id, grace_s=0)

    def _kill_sandbox(self, c: ConversationKey) -> None:
        settings = self.settings
        records = SandboxRecords(settings.data_dir, cluster=settings.cluster, host=self.name)
        for record in records.all():
            found = records.processes(record) if record.conversation == c else None
            if found is not None and found.init.is_alive():
                os.kill(found.init.pid, signal.SIGKILL)

    async def containers(self) -> list[Container]:
        """Those of the cluster's conversations on this machine; none when the machine is gone."""
        if self.farm is not None and not self.farm.is_running:
            return []
        data_dir = self.settings.data_dir
        seen = PooledHost(self.engine, SpareRecords(data_dir), Folders(data_dir))
        return list(await seen.list())

    @property
    def _farm_socket(self) -> Path:
        return self.settings.data_dir / "farm.sock"

    async def _farm_listens(self) -> bool:
        try:
            await self.engine.list()
        except ContainerFailed:
            return False
        return True


class Cluster:
    """The running thing. TurnFiles by `cluster`."""

    def __init__(
        self,
        shape: Shape,
        folder: Path,
        *,
        redis: RealRedis | None,
        sentinels: SentinelCluster | None,
        proxy: RedisProxy | None,
        store: Store,
    ) -> None:
        self.shape = shape
        self.folder = folder
        self._redis = redis
        self.sentinels = sentinels
        self.proxy = proxy
        self.store = store
        """Our own way into Redis, past the proxy."""
        self.model: Process | None = None
        self.model_proxy: RedisProxy | None = None
        """Between gateways and model; it passes bytes, whatever they mean."""
        self.replicas: list[Process] = []
        self.urls: list[str] = []
        """The replicas' addresses, in their order."""
        self.hosts: list[Host] = []

    @property
    def redis(self) -> RealRedis:
        """The one server there is, unless Sentinels watch several."""
        assert self._redis is not None, "this cluster has Sentinels"
        return self._redis

    def processes(self) -> list[Process]:
        """All of them, in the order to start them in."""
        hosts = [one for host in self.hosts for one in host.processes()]
        return [*([self.model] if self.model else []), *hosts, *self.replicas]

    def workers(self) -> list[Process]:
        return [worker for host in self.hosts for worker in host.workers]

    def key_of(self, api_key: str, name: str) -> ConversationKey:
        """The conversation that a caller calls so."""
        secret = SECRET.encode()
        return conversation_key(secret, tenant_id(secret, api_key), name)

    async def conversation(self, api_key: str, name: str) -> ConversationRecord | None:
        """Its record."""
        return await self.store.conversations.get(self.key_of(api_key, name))

    async def owner_of(self, api_key: str, name: str) -> Process | None:
        """The process that owns a conversation."""
        record = await self.conversation(api_key, name)
        return await self.process_of(record.owner) if record and record.owner else None

    async def process_of(self, worker: str) -> Process | None:
        """The process that calls itself so; it must have said that it lives."""
        for one in await self.store.workers.alive():
            if one.worker == worker:
                return next((p for p in self.workers() if p.pid == one.pid), None)
        return None

    def host_of(self, worker: Process) -> Host:
        """The machine a worker runs on."""
        return next(host for host in self.hosts if worker in host.workers)

    def lines_of(self, api_key: str, name: str, file: str) -> list[str]:
        """What stands in a file of a conversation's workspace, on whatever machines have it."""
        c = self.key_of(api_key, name)
        files = [host.workspace(c) / file for host in self.hosts]
        return [line for one in files if one.is_file() for line in one.read_text().splitlines()]

    async def ready(self, *only: Process) -> None:
        """Until each of these (or every process) that runs and is not frozen can be used."""
        for one in only or self.processes():
            if one.is_running and not one.is_frozen:
                await until(f"{one.name} is ready", partial(self._is_ready, one), one)

    async def _is_ready(self, one: Process) -> bool:
        if one in self.replicas:
            return await _answers(self.urls[self.replicas.index(one)])
        return one not in self.workers() or await self._beats(one)

    async def _beats(self, worker: Process) -> bool:
        try:
            alive = await self.store.workers.alive()
        except StoreUnavailable:
            return False
        return any(one.pid == worker.pid for one in alive)


@asynccontextmanager
async def cluster(shape: Shape, *, name: str = "chaos") -> AsyncIterator[Cluster]:
    """Start it; when the block ends, everything of it is gone."""
    async with AsyncExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="agc-x-", dir="/tmp"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        redis = watched = proxy = None
        if shape.has_sentinels:
            watched = await stack.enter_async_context(sentinels())
            url = own_url = watched.url
        else:
            redis = await stack.enter_async_context(real_redis(append_only=True))
            url = own_url = redis.url
        if shape.has_proxy:
            proxy = await stack.enter_async_context(redis_proxy(url))
            url = proxy.url
        settings = _settings(shape, name, url)
        store = open_store(settings.model_copy(update={"redis_url": own_url}), name="chaos")
        stack.push_async_callback(store.aclose)
        made = Cluster(shape, folder, redis=redis, sentinels=watched, proxy=proxy, store=store)
        stack.push_async_callback(_take_down, made)
        if shape.agents is not Agents.LIGHT:
            port = free_port()
            command = (sys.executable, "-m", "infra.scripted_model", "--port", str(port))
            made.model = Process("model", command, bare_environment(), folder / "model.log")
            made.model_proxy = between = await stack.enter_async_context(
                redis_proxy(f"redis://127.0.0.1:{port}")
            )
            url = f"http://{urlsplit(between.url).netloc}"
            settings = settings.model_copy(update={"anthropic_base_url": url})
        await _put_up(made, settings)
        yield made


def _settings(shape: Shape, name: str, redis_url: str) -> Settings:
    given: dict[str, Any] = {
        "redis_url": redis_url,
        "secret": SECRET,
        "content_secret": CONTENT_SECRET,
        "cluster": f"{name}-{free_port()}",
        "isolation": Isolation.BUBBLEWRAP if shape.agents is Agents.LIGHT else shape.agents.value,
        "agent_image": AGENT_IMAGE,
        "models": (MODEL,),
        "key_check": False,
        "slots": 16,
        "spares_max": 0,
        # Answers are numbers, and are held against them.
        "artifact_display": ArtifactDisplay.OFF,
        "ping_interval_s": 1.0,
        "commit_after_s": 1.0,
        "drain_timeout_s": 4.0,
        # One key asks for everything.
        "tenant_requests_per_min": 0,
        "disconnect_grace_s": 3.0,
        "container_start_timeout_s": 30.0,
    }
    return Settings.model_validate(given | dict(shape.settings))


async def _put_up(made: Cluster, settings: Settings) -> None:
    shape = made.shape
    made.hosts += [_host(made, settings, i, count) for i, count in enumerate(shape.workers)]
    for i in range(shape.replicas):
        port = free_port()
        own = settings.model_copy(
            update={"port": port, "host_id": f"api-{i}", "data_dir": made.folder / "api"}
        )
        made.urls.append(f"http://127.0.0.1:{port}")
        made.replicas.append(_ours(made, f"api-{i}", "api", own))
    for host in made.hosts:
        await host.start()
    for one in made.processes():
        one.start()
    await made.ready()


def _host(made: Cluster, settings: Settings, number: int, workers: int) -> Host:
    name = f"h{number}"
    data_dir = made.folder / name
    data_dir.mkdir()
    meminfo = made.folder / f"{name}-meminfo"
    own = settings.model_copy(
        update={"host_id": name, "data_dir": data_dir, "meminfo_file": meminfo}
    )
    if made.shape.agents is not Agents.LIGHT:
        engine = made.shape.engines[number] if made.shape.engines else engine_address()
        host = Host(own, host_of(own.isolation, own, engine=engine))
        host.has_memory(PLENTY_MB)
        host.gateway = _ours(made, f"{name}-gateway", "gateway", own)
        host.workers = [
            _ours(made, f"{name}-worker-{i}", "worker", own, {"DOCKER_HOST": engine})
            for i in range(workers)
        ]
        return host
    farm = str(data_dir / "farm.sock")
    host = Host(own, FarmHost(own.host_name, farm))
    host.has_memory(PLENTY_MB)
    python = (sys.executable, "-m")
    host.farm = Process(
        f"{name}-farm",
        (*python, "tests.chaos.farm", farm, name),
        bare_environment(),
        made.folder / f"{name}-farm.log",
    )
    host.workers = [
        Process(
            f"{name}-worker-{i}",
            (*python, "tests.chaos.light_worker", farm),
            environment(own, program="worker"),
            made.folder / f"{name}-worker-{i}.log",
        )
        for i in range(workers)
    ]
    return host


def _ours(
    made: Cluster,
    name: str,
    program: str,
    settings: Settings,
    environ: Mapping[str, str] | None = None,
) -> Process:
    command = python_command(MODULES[program])
    everything = {**environment(settings, program=program), **(environ or {})}
    return Process(name, command, everything, made.folder / f"{name}.log")


async def _take_down(made: Cluster) -> None:
    """Workers first, so that nobody starts a container after the others were stopped."""
    leaving = [*made.workers(), *made.replicas]
    for one in leaving:
        if one.is_running:
            one.thaw()
            one.terminate()
    for one in leaving:
        await one.stop(within_s=LEAVE_S)
    for host in made.hosts:
        with contextlib.suppress(ContainerFailed):
            await host.stop_containers()
        await host.engine.aclose()
    for one in reversed(made.processes()):
        await one.stop(within_s=LEAVE_S)


async def until(
    what: str,
    is_so: Callable[[], Awaitable[bool]],
    process: Process | None = None,
    *,
    within_s: float = READY_S,
) -> None:
    """Wait for something that only other processes decide. Raises `TimeoutError`.

    With `process`: `RuntimeError` as soon as that one ends.
    """
    deadline = time.monotonic() + within_s
    while not await is_so():
        if process is not None and not process.is_running:
            raise RuntimeError(f"{process.name} ended: {process.last_lines()}")
        if time.monotonic() > deadline:
            last = process.last_lines() if process else ""
            raise TimeoutError(f"{what}: not within {within_s:g} s {last}")
        await asyncio.sleep(_LOOK_S)


async def _answers(url: str) -> bool:
    async with httpx.AsyncClient(timeout=2) as client:
        try:
            return (await client.get(f"{url}/health/ready")).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False
