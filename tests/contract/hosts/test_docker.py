"""What only Docker does: how its containers look from outside, and an engine that goes away."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from infra.runtime.clock import SystemClock
from infra.runtime.settings import load_settings
from infra.wire.errors import ContainerFailed, EngineFailed, NoIsolation
from infra.wire.ids import ConversationKey, Fence, HostId, WorkerId
from tests.contract.hosts.conftest import LIMITS, DockerMachine, docker_machine, output_of
from tests.fakes import probe
from worker.hosts.breaker import FAILURES_MAX
from worker.hosts.docker.host import DockerHost, DockerOptions
from worker.hosts.engine import Engine
from worker.hosts.folders.folders import Folders

pytestmark = pytest.mark.docker
ENGINE = "/var/run/docker.sock"


@pytest.fixture
async def docker(data_dir: Path) -> AsyncIterator[DockerMachine]:
    async with docker_machine(data_dir) as machine:
        yield machine


async def _inspect(id: str) -> Any:
    return json.loads(await output_of("docker", "inspect", id))[0]


async def test_a_container_is_bounded_and_cut_off_as_inspect_shows_it(
    docker: DockerMachine,
) -> None:
    spec = docker.spec()
    started = await docker.host().start(spec)

    shown = await _inspect(started.id)
    host = shown["HostConfig"]

    assert (host["NetworkMode"], host["ReadonlyRootfs"], host["Init"]) == ("none", True, True)
    assert (host["CapDrop"], host["CapAdd"], host["Privileged"]) == (["ALL"], None, False)
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["Memory"] == host["MemorySwap"] == LIMITS.memory_mb * 1024 * 1024
    assert (host["PidsLimit"], host["NanoCpus"]) == (LIMITS.pids, 10**9)
    assert host["RestartPolicy"]["Name"] in ("", "no")
    assert (host["PidMode"], host["UTSMode"], host["IpcMode"]) == ("", "", "private")
    assert host["LogConfig"]["Type"] == "local"
    assert "max-size" in host["LogConfig"]["Config"]
    assert host["OomScoreAdj"] > 0
    assert {m["Destination"] for m in shown["Mounts"]} == {"/run/agcluster", "/workspace"}
    assert shown["Config"]["Hostname"] == "agent"
    names = {pair.split("=")[0] for pair in shown["Config"]["Env"]}
    assert names <= {"HOME", "LANG", "PATH"}


async def test_the_cpus_of_its_start_are_taken_back(docker: DockerMachine) -> None:
    made, host = docker.spec(), docker.host()
    started = await host.start(replace(made, limits=replace(made.limits, start_cpus=2.0)))
    assert (await _inspect(started.id))["HostConfig"]["NanoCpus"] == 2 * 10**9

    await host.limit_cpus(started.id, made.limits.cpus)

    assert (await _inspect(started.id))["HostConfig"]["NanoCpus"] == 10**9


async def test_labels_say_whose_container_it_is(docker: DockerMachine) -> None:
    spec = docker.spec(fence=7)
    started = await docker.host().start(spec)

    shown = await _inspect(started.id)
    labels = shown["Config"]["Labels"]

    assert labels["agcluster.conv"] == spec.conversation
    assert labels["agcluster.fence"] == "7"
    assert labels["agcluster.host"] == "host-1"
    assert labels["agcluster.created"] == str(started.created_ms)
    assert shown["Name"].endswith(spec.conversation)


async def test_a_missing_image_is_told_with_the_command_that_builds_it(
    docker: DockerMachine,
) -> None:
    host = DockerHost(HostId("host-1"), DockerOptions("agcluster-never-built:0", "test-none"))
    with pytest.raises(EngineFailed, match="agcluster build-image"):
        await host.start(docker.spec())
    await host.aclose()


async def test_an_unknown_runtime_is_refused_by_the_check() -> None:
    options = DockerOptions("any", "test-none", runtime="never-installed")
    host = DockerHost(HostId("host-1"), options)
    with pytest.raises(NoIsolation, match="never-installed"):
        await host.check()
    await host.aclose()


async def test_no_engine_is_told_as_no_isolation(data_dir: Path) -> None:
    options = DockerOptions("any", "test-none", engine=f"unix://{data_dir}/nobody.sock")
    host = DockerHost(HostId("host-1"), options)
    with pytest.raises(NoIsolation, match="no Docker engine answers"):
        await host.check()
    await host.aclose()


async def test_an_engine_of_another_machine_is_refused() -> None:
    """Its containers could not see our sockets."""
    options = DockerOptions("any", "test-none", engine="tcp://192.0.2.1:2375")
    host = DockerHost(HostId("host-1"), options)
    with pytest.raises(NoIsolation, match="another machine"):
        await host.check()
    await host.aclose()


class CutCable:
    """A way to the engine that a test can cut and mend."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def mend(self) -> None:
        self._server = await asyncio.start_unix_server(self._carry, self._path)

    async def cut(self) -> None:
        assert self._server is not None
        self._server.close()
        self._path.unlink(missing_ok=True)
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0)

    async def _carry(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        far, out = await asyncio.open_unix_connection(ENGINE)
        self._writers |= {back, out}
        with contextlib.suppress(OSError):
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(near, out))
                group.create_task(self._pump(far, back))
        self._writers -= {back, out}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while part := await reader.read(65536):
                writer.write(part)
                await writer.drain()
        writer.close()


async def test_an_end_during_an_engine_fault_is_told_after_it(
    docker: DockerMachine, data_dir: Path
) -> None:
    cable = CutCable(data_dir / "engine.sock")
    await cable.mend()
    host = docker.host(engine=f"unix://{data_dir}/engine.sock")
    spec = docker.spec()
    exits = host.exits()
    started = await host.start(spec)
    await probe.listening(spec.folders.sockets)

    await cable.cut()
    with pytest.raises(ContainerFailed):
        await host.list()
    await docker.kill(spec, started.id)
    await cable.mend()

    async with asyncio.timeout(30):
        ended = await anext(exits)
    assert (ended.id, ended.exit_code, ended.is_out_of_memory) == (started.id, 137, True)
    await host.aclose()
    await cable.cut()


async def test_an_engine_that_is_away_is_given_up_and_trusted_again_by_itself(
    docker: DockerMachine, data_dir: Path
) -> None:
    cable = CutCable(data_dir / "engine.sock")
    host = docker.host(engine=f"unix://{data_dir}/engine.sock")
    changed = asyncio.Event()
    engine = Engine(
        host,
        Folders(data_dir),
        load_settings({"AGCLUSTER_CONTAINER_MEMORY_MB": "256"}, env_file=None),
        SystemClock(),
        has_egress=False,
        worker=WorkerId("host-1-0011aabb"),
        cool_down_s=0.2,
        cool_down_max_s=0.4,
        on_change=changed.set,
    )
    c, fence = ConversationKey("c" * 24), Fence(1)
    folders = await engine.make_folders(c, fence)
    async with asyncio.TaskGroup() as group:
        probing = group.create_task(engine.run())
        trusted = []
        for _ in range(FAILURES_MAX):
            trusted.append(engine.is_trusted)
            with pytest.raises(EngineFailed):
                await engine.start(c, fence, folders)
        assert [*trusted, engine.is_trusted] == [*[True] * FAILURES_MAX, False]
        changed.clear()

        await cable.mend()

        async with asyncio.timeout(60):
            await changed.wait()
        assert engine.is_trusted
        probing.cancel()
    assert await host.list() == [], "the probe is gone"
    started = await engine.start(c, fence, folders)
    assert [found.id for found in await host.list()] == [started.id]
    await host.stop(started.id, grace_s=0)
    await host.aclose()
    await cable.cut()
