"""The fakes act out what they are named for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from infra.wire.errors import ContainerFailed
from infra.wire.ids import ConversationKey, Fence
from tests.fakes.memory_host import (
    MemoryHost,
    MemoryMachine,
    NeverReadyHost,
    SlowHost,
    VanishingHost,
)
from worker.hosts.host import ContainerSpec, Limits, SessionFolders


def _spec(folder: Path) -> ContainerSpec:
    limits = Limits(cpus=1, memory_mb=256, pids=64, tmp_mb=16)
    return ContainerSpec(
        ConversationKey("c"), Fence(1), SessionFolders(folder, folder), limits, egress=False
    )


@asynccontextmanager
async def _breaks(spec: ContainerSpec) -> AsyncIterator[None]:
    if spec.conversation:
        raise OSError("no socket today")
    yield


async def test_an_agent_that_cannot_start_fails_its_container_alone(tmp_path: Path) -> None:
    async with MemoryMachine(_breaks) as machine:
        host = MemoryHost(machine)
        with pytest.raises(ContainerFailed, match="no socket today"):
            await host.start(_spec(tmp_path))
        assert await host.list() == []


async def test_a_never_ready_host_runs_containers_without_agents(tmp_path: Path) -> None:
    async with MemoryMachine(_breaks) as machine:
        host = NeverReadyHost(machine)
        assert (await host.start(_spec(tmp_path))).is_running


async def test_a_slow_host_waits_for_its_release(tmp_path: Path) -> None:
    async with MemoryMachine() as machine, asyncio.TaskGroup() as group:
        host = SlowHost(machine)
        start = group.create_task(host.start(_spec(tmp_path)))
        await host.asked.wait()
        assert not start.done()
        host.released.set()


async def test_a_vanishing_host_loses_its_first_container(tmp_path: Path) -> None:
    async with MemoryMachine() as machine:
        host = VanishingHost(machine)
        exits = host.exits()
        first = await host.start(_spec(tmp_path))
        assert (await anext(exits)).id == first.id

        second = await host.start(_spec(tmp_path))

        assert [(c.id, c.is_running) for c in await host.list()] == [(second.id, True)]
