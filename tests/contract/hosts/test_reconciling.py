"""A worker compares what its host has with what is on record: in memory, bubblewrap and Docker.

What is nobody's goes, what is somebody else's stays, whatever it is.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from infra.wire.ids import ConversationKey, HostId, WorkerId
from infra.wire.states import ConversationState
from tests.contract.hosts.conftest import BASE_IMAGE, Machine, docker_machine, output_of
from tests.fakes import probe
from tests.fakes.fake_redis import fake_redis
from tests.fakes.worker_stage import QUICK, RunningWorker, Stage
from worker.hosts.host import Container, ContainerHost, ContainerSpec

NEVER_FORGOTTEN = 4 * 10**15
"""A fence from the future: Redis has not lost the record of such a container, it had none."""
ELSEWHERE = HostId("host-2")
RARELY = replace(QUICK, sweep_at_least_s=60, sweep_at_most_s=60, reconcile_every_s=600)


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with fake_redis() as redis, Stage(redis) as stage:
        yield stage


async def worker_on(stage: Stage, machine: Machine, data_dir: Path) -> RunningWorker:
    """One that looks when it is told to."""
    return await stage.worker(host=machine.host(), timings=RARELY, data_dir=data_dir)  # type: ignore[arg-type]


async def look(worker: RunningWorker, *, after_s: float = 0.0) -> None:
    await asyncio.sleep(after_s)
    await worker.process.reaper.reconcile()


async def on_record(
    stage: Stage, c: ConversationKey, *, host: HostId, container: str, state: ConversationState
) -> None:
    """Another worker has (had) it, and has given it up since."""
    lease = await stage.store.leases.acquire(c, WorkerId(f"{host}-former"), host)
    for step in (ConversationState.STARTING, ConversationState.BUSY):
        await stage.store.conversations.update(lease, step, container=container)
    await stage.store.leases.release(lease, state)


async def running(host: ContainerHost) -> set[str]:
    return {container.id for container in await host.list() if container.is_running}


async def until_gone(worker: RunningWorker, folder: Path) -> None:
    """A container that was stopped may be listed for another moment."""
    async with asyncio.timeout(30):
        while folder.exists():  # noqa: ASYNC240 - a local folder
            await look(worker)


async def started(host: ContainerHost, spec: ContainerSpec) -> Container:
    container = await host.start(spec)
    await probe.listening(spec.folders.sockets)
    return container


async def test_an_orphan_goes_after_a_grace_and_its_sockets_with_it(
    machine: Machine, data_dir: Path, stage: Stage
) -> None:
    host, spec = machine.host(), machine.spec(fence=NEVER_FORGOTTEN)
    await started(host, spec)
    worker = await worker_on(stage, machine, data_dir)
    assert await running(host)

    await look(worker, after_s=QUICK.orphan_grace_s + 0.1)
    assert not await running(host)

    await until_gone(worker, spec.folders.sockets)
    assert spec.folders.workspace.exists()


async def test_what_a_moved_conversation_left_goes_at_once(
    machine: Machine, data_dir: Path, stage: Stage
) -> None:
    host, spec = machine.host(), machine.spec()
    await started(host, spec)
    await on_record(
        stage, spec.conversation, host=ELSEWHERE, container="there", state=ConversationState.WARM
    )

    worker = await worker_on(stage, machine, data_dir)
    await look(worker)

    assert not await running(host)
    await until_gone(worker, spec.folders.sockets)
    record = await stage.store.conversations.get(spec.conversation)
    assert record is not None
    assert (record.host, record.container) == (ELSEWHERE, "there")


async def test_a_container_whose_place_another_took_goes_at_once(
    machine: Machine, data_dir: Path, stage: Stage
) -> None:
    host, spec = machine.host(), machine.spec()
    await started(host, spec)
    await on_record(
        stage,
        spec.conversation,
        host=HostId("host-1"),
        container="another",
        state=ConversationState.WARM,
    )

    worker = await worker_on(stage, machine, data_dir)
    await look(worker)

    assert not await running(host)


async def test_a_warm_conversation_without_its_container_is_cold_when_it_is_due(
    machine: Machine, data_dir: Path, stage: Stage
) -> None:
    c = ConversationKey(secrets.token_hex(12))
    await on_record(
        stage, c, host=HostId("host-1"), container="vanished", state=ConversationState.WARM
    )
    await stage.redis.zadd(stage.keys.idle(), {c: 1})
    worker = await worker_on(stage, machine, data_dir)

    async with asyncio.timeout(20):
        while True:
            await worker.process.reaper.sweep()
            record = await stage.store.conversations.get(c)
            if record is None or record.state is ConversationState.COLD:
                break
            await asyncio.sleep(0.05)

    assert not await stage.redis.zcard(stage.keys.idle())


async def test_another_host_and_another_cluster_are_not_touched(
    machine: Machine, data_dir: Path, stage: Stage
) -> None:
    """They share the engine, and each has a data folder of its own."""
    other = machine.another_cluster()
    specs = [
        machine.spec(fence=NEVER_FORGOTTEN, data_dir=data_dir / part)
        for part in (".", "host-2", "other")
    ]
    near, far, foreign = specs
    for host, spec in zip(
        (machine.host(), machine.host("host-2"), other.host()), specs, strict=True
    ):
        await started(host, spec)

    worker = await worker_on(stage, machine, data_dir)
    await look(worker, after_s=QUICK.orphan_grace_s + 0.1)
    await until_gone(worker, near.folders.sockets)

    assert not await running(machine.host())
    for host, spec in ((machine.host("host-2"), far), (other.host(), foreign)):
        [container] = await host.list()
        assert container.is_running
        await probe.listening(spec.folders.sockets)
        await host.stop(container.id, grace_s=0)


async def test_what_is_no_conversations_is_not_touched(
    machine: Machine, data_dir: Path, stage: Stage
) -> None:
    """Nor is what somebody else keeps in our folders, but for the trash."""
    foreign = [data_dir / part for part in ("s/notes", "w/notes", "f/notes", "b/notes", "notes")]
    trash = data_dir / "w/.trash/notes"
    for folder in (*foreign, trash):
        folder.mkdir(parents=True)
        (folder / "file").write_text("mine")

    worker = await worker_on(stage, machine, data_dir)
    await look(worker)

    assert all((folder / "file").exists() for folder in foreign)
    await asyncio.to_thread(worker.process.parts.folders.drop_trash)
    assert not trash.exists()
    for folder in foreign:
        shutil.rmtree(folder)


@pytest.mark.docker
async def test_a_container_without_our_labels_is_not_touched(data_dir: Path, stage: Stage) -> None:
    async with docker_machine(data_dir) as machine:
        name = f"agc-foreign-{secrets.token_hex(4)}"
        await output_of(
            *("docker", "run", "-d", "--rm", "--network", "none", "--name", name),
            *(BASE_IMAGE, "sleep", "300"),
        )
        try:
            worker = await worker_on(stage, machine, data_dir)
            await look(worker, after_s=QUICK.orphan_grace_s + 0.1)
            await look(worker)
            shown = await output_of("docker", "inspect", "-f", "{{.State.Running}}", name)
            assert shown.strip() == "true"
        finally:
            await output_of("docker", "rm", "-f", name)
