"""A worker's container host behind the engine proxy, on a real engine."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import APIError

from infra.wire.errors import ContainerFailed
from infra.wire.ids import HostId
from tests.contract.hosts.conftest import (
    BASE_IMAGE,
    LIMITS,
    DockerMachine,
    docker_machine,
    output_of,
)
from tests.fakes import probe
from worker.containers import DockerHost, DockerOptions
from worker.docker_engine import engine_address
from worker.engine_proxy.main import serve
from worker.engine_proxy.rules import Rules

pytestmark = pytest.mark.docker


@pytest.fixture
async def machine(data_dir: Path) -> AsyncIterator[DockerMachine]:
    async with docker_machine(data_dir) as made:
        yield made


@pytest.fixture
async def proxy(machine: DockerMachine) -> AsyncIterator[str]:
    """The address of a proxy for `host-1` of the machine's cluster."""
    options = DockerOptions(
        BASE_IMAGE,
        machine.cluster,
        engine=engine_address(),
        command=probe.DOCKER_COMMAND,
    )
    rules = Rules(options, HostId("host-1"), LIMITS, machine.data_dir)
    socket, stop, is_ready = machine.data_dir / "engine.sock", asyncio.Event(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(serve(rules, socket, stop, is_ready=is_ready))
        await is_ready.wait()
        yield f"unix://{socket}"
        stop.set()


async def test_a_worker_behind_the_proxy_can_do_all_it_has_to(
    machine: DockerMachine, proxy: str
) -> None:
    host = machine.host(engine=proxy)
    await host.check()
    exits = host.exits()
    spec = machine.spec()

    first = await host.start(spec)
    assert (await probe.run(spec.folders.sockets, "id", "-u")).out.strip() == "1000"
    assert [c.id for c in await host.list()] == [first.id]
    await machine.kill(spec, first.id)
    async with asyncio.timeout(30):
        ended = await anext(exits)
    assert (ended.id, ended.exit_code) == (first.id, 137)

    second = await host.start(machine.spec(spec.conversation, fence=2))
    assert [c.id for c in await host.list()] == [second.id]
    await host.stop(second.id)
    assert await host.list() == []
    await host.aclose()


async def test_a_worker_with_other_settings_is_told_what_differs(
    machine: DockerMachine, proxy: str
) -> None:
    options = DockerOptions(BASE_IMAGE, machine.cluster, engine=proxy, command=("sleep", "60"))
    host = DockerHost(HostId("host-1"), options)

    with pytest.raises(ContainerFailed, match=r"refused by the engine proxy: Cmd of a container"):
        await host.start(machine.spec())
    await host.aclose()


async def test_neighbours_on_the_engine_are_out_of_reach(
    machine: DockerMachine, proxy: str
) -> None:
    stranger = (
        await output_of(
            *("docker", "run", "-d", "--rm", "--network", "none", "--init"),
            *(BASE_IMAGE, "sleep", "300"),
        )
    ).strip()
    try:
        refused = await asyncio.to_thread(_attack, proxy, stranger)
    finally:
        await output_of("docker", "kill", stranger)

    assert refused == ["inspect", "kill", "stop", "remove", "exec", "logs", "run", "volumes"]


def _attack(address: str, stranger: str) -> list[str]:
    """Which of these were refused."""
    engine: Any = docker.DockerClient(base_url=address, timeout=30)
    refused = []
    attempts: dict[str, Callable[[], object]] = {
        "inspect": lambda: engine.api.inspect_container(stranger),
        "kill": lambda: engine.api.kill(stranger),
        "stop": lambda: engine.api.stop(stranger, timeout=1),
        "remove": lambda: engine.api.remove_container(stranger, force=True),
        "exec": lambda: engine.api.exec_create(stranger, "true"),
        "logs": lambda: engine.api.logs(stranger),
        "run": lambda: engine.containers.create("busybox", privileged=True),
        "volumes": lambda: engine.api.volumes(),
    }
    with contextlib.closing(engine):
        for name, attempt in attempts.items():
            with pytest.raises(APIError, match="refused by the engine proxy"):
                attempt()
            refused.append(name)
    return refused
