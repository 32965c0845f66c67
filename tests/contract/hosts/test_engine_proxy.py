"""A worker's container host behind the engine proxy, on a real engine."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import APIError

from infra.wire.agents.bundle import BundleFile, bundle_digest, pack
from infra.wire.errors import ContainerFailed
from infra.wire.ids import HostId
from tests.contract.hosts.conftest import (
    BASE_IMAGE,
    LIMITS,
    DockerMachine,
    claimed,
    docker_machine,
    output_of,
    pooled,
    started_as_spare,
)
from tests.fakes import probe
from worker.engine_proxy.main import serve
from worker.engine_proxy.rules import OwnContainer, Rules
from worker.hosts.docker.engine import engine_address
from worker.hosts.docker.host import DockerHost, DockerOptions
from worker.hosts.folders.folders import Folders
from worker.hosts.form import ContainerForm
from worker.hosts.pool.records import SpareRecords

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
    async with _served(Rules(options, HostId("host-1"), LIMITS, machine.data_dir)) as address:
        yield address


@contextlib.asynccontextmanager
async def _served(rules: Rules, name: str = "engine.sock") -> AsyncIterator[str]:
    socket, stop, is_ready = rules.data_dir / name, asyncio.Event(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(serve(rules, socket, stop, is_ready=is_ready))
        await is_ready.wait()
        yield f"unix://{socket}"
        stop.set()


async def test_a_worker_behind_the_proxy_is_told_what_is_unlinked_and_held_open(
    machine: DockerMachine, proxy: str
) -> None:
    """In compose the worker sees no process of its agents; the proxy does."""
    host, spec = machine.host(engine=proxy), machine.spec()
    made = await host.start(spec)
    hide = """
import os
held = os.open("/workspace/x", os.O_RDWR | os.O_CREAT)
os.unlink("/workspace/x")
os.posix_fallocate(held, 0, 9 << 20)
"""
    await probe.listening(spec.folders.sockets)
    assert await host.unlinked_bytes(made.id, spec.folders.workspace) == 0
    assert (await probe.python(spec.folders.sockets, hide)).code == 0

    # The folder is the proxy's to find: a worker that was taken over cannot name another.
    assert await host.unlinked_bytes(made.id, Path("/nowhere")) == 9 << 20
    other = machine.another_cluster().host()
    strangers = await other.start(machine.spec())
    with pytest.raises(ContainerFailed, match="not one of this cluster"):
        await host.unlinked_bytes(strangers.id, spec.folders.workspace)
    await other.stop(strangers.id, grace_s=0)


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
    await host.limit_cpus(second.id, LIMITS.cpus)
    with pytest.raises(ContainerFailed, match="NanoCpus"):
        await host.limit_cpus(second.id, LIMITS.cpus * 2)
    await host.stop(second.id)
    assert await host.list() == []
    await host.aclose()


async def test_a_claimed_spare_stays_under_the_next_proxy(
    machine: DockerMachine, proxy: str
) -> None:
    """It is known by the key of the spare, and its folders have been renamed."""
    host = pooled(machine, machine.host(engine=proxy))
    spec, taken = await claimed(machine, host)
    rules = Rules(
        DockerOptions(
            BASE_IMAGE, machine.cluster, engine=engine_address(), command=probe.DOCKER_COMMAND
        ),
        HostId("host-1"),
        LIMITS,
        machine.data_dir,
    )
    async with _served(rules, "next.sock") as address:
        again = pooled(machine, machine.host(engine=address))
        assert [one.id for one in await again.list()] == [taken.id]
        hide = "held = open('/workspace/x', 'wb'); import os; os.unlink('/workspace/x');"
        hide += "os.posix_fallocate(held.fileno(), 0, 9 << 20); globals()['kept'] = held"
        code = f"import builtins; exec({hide!r}, builtins.__dict__)"
        assert (await probe.python(spec.folders.sockets, code)).code == 0
        assert await again.unlinked_bytes(taken.id, spec.folders.workspace) == 9 << 20
        await again.limit_cpus(taken.id, LIMITS.cpus)
        await again.stop(taken.id)
        assert await again.list() == []


async def test_a_record_that_names_anothers_folders_lets_no_container_stay(
    machine: DockerMachine, proxy: str
) -> None:
    """A worker that was taken over writes what it likes, but a mount stays what it is."""
    host = pooled(machine, machine.host(engine=proxy))
    made, _ = await started_as_spare(machine, host)
    other = machine.spec()
    for path in (made.folders.sockets, made.folders.workspace):
        path.rename(path.with_name("hidden"))
    with SpareRecords(machine.data_dir).held(made.conversation) as held:
        held.write(replace(held.record, claimed_by=other.conversation))
    rules = Rules(
        DockerOptions(
            BASE_IMAGE, machine.cluster, engine=engine_address(), command=probe.DOCKER_COMMAND
        ),
        HostId("host-1"),
        LIMITS,
        machine.data_dir,
    )
    async with _served(rules, "next.sock"), asyncio.timeout(30):
        # The proxy removes it on its own, and tells nobody.
        while await machine.host().list():  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def test_a_worker_with_other_settings_is_told_what_differs(
    machine: DockerMachine, proxy: str
) -> None:
    options = DockerOptions(BASE_IMAGE, machine.cluster, engine=proxy, command=("sleep", "60"))
    host = DockerHost(HostId("host-1"), options)

    with pytest.raises(ContainerFailed, match=r"refused by the engine proxy: Cmd of a container"):
        await host.start(machine.spec())
    await host.aclose()


@dataclass(frozen=True)
class OvertakenRules(Rules):
    """A worker that was taken over puts a link to `target` in the place of a folder, after the
    proxy has looked and before the engine does."""

    target: Path = Path("/")

    @contextlib.contextmanager
    def held_folders(self, ours: OwnContainer) -> Iterator[Mapping[str, int]]:
        with super().held_folders(ours) as held:
            workspace = self.data_dir / "w" / ours.conversation
            workspace.rename(workspace.with_name("moved"))
            workspace.symlink_to(self.target)
            try:
                yield held
            finally:
                workspace.unlink()
                workspace.with_name("moved").rename(workspace)


async def test_a_folder_exchanged_between_the_look_and_the_mount_is_not_the_agents_for_long(
    machine: DockerMachine, tmp_path: Path
) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "file").write_text("the host's")
    rules = OvertakenRules(
        DockerOptions(
            BASE_IMAGE, machine.cluster, engine=engine_address(), command=probe.DOCKER_COMMAND
        ),
        HostId("host-1"),
        LIMITS,
        machine.data_dir,
        foreign,
    )
    async with _served(rules) as address:
        host = machine.host(engine=address)
        with pytest.raises(ContainerFailed, match="/workspace is not the folder that was looked"):
            await host.start(machine.spec())
        assert await host.list() == []
    assert (foreign / "file").read_text() == "the host's"


async def test_of_bundles_a_container_gets_the_one_that_its_label_names(
    machine: DockerMachine, proxy: str, tmp_path: Path
) -> None:
    raw = pack({"skills/pdf/SKILL.md": BundleFile(b"---\ndescription: D.\n---\nHow to.")})
    form = ContainerForm(bundle=bundle_digest(raw))
    folders = Folders(machine.data_dir)
    folders.bundles.put(bundle_digest(raw), raw)
    made = machine.spec()
    right = replace(made, folders=folders.formed(made.folders, form), form=form)
    host = machine.host(engine=proxy)
    await host.start(right)
    told = await probe.run(right.folders.sockets, "ls", "/run/bundle/plugin/skills")
    assert told.out.strip() == "pdf"
    assert [one.form for one in await host.list()] == [form]

    other = replace(right.folders, bundle=tmp_path)
    with pytest.raises(ContainerFailed, match="refused by the engine proxy"):
        await host.start(replace(right, folders=other))
    (machine.data_dir / "bundles" / ("0" * 64)).symlink_to("/etc")
    form = ContainerForm(bundle="0" * 64)
    linked = replace(made, folders=folders.formed(made.folders, form), form=form)
    with pytest.raises(ContainerFailed, match="is not a folder"):
        await host.start(linked)


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
