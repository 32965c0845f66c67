"""The real agent server, started by each host that really isolates, answers its worker."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from infra.wire.ids import ConversationKey, Fence, HostId, WorkerId
from infra.wire.link import Hello, Welcome, decode_answer
from tests.fakes import probe
from tests.parts import AGENT_IMAGE, need
from worker.hosts.bubblewrap.host import BubblewrapHost, BubblewrapOptions
from worker.hosts.docker.host import DockerHost, DockerOptions
from worker.hosts.folders.folders import Folders
from worker.hosts.host import ContainerHost, ContainerSpec, Limits


@pytest.mark.sdk
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("bwrap", marks=pytest.mark.bwrap),
        pytest.param("docker", marks=pytest.mark.docker),
    ],
)
async def test_the_real_agent_welcomes_its_worker(kind: str, data_dir: Path) -> None:
    need("sdk")
    need(kind)
    cluster, conversation = f"test-{data_dir.name}", ConversationKey("c" * 24)
    host: ContainerHost = (
        DockerHost(HostId("host-1"), DockerOptions(AGENT_IMAGE, cluster, call_timeout_s=40))
        if kind == "docker"
        else BubblewrapHost(HostId("host-1"), BubblewrapOptions(cluster, data_dir))
    )
    await host.check()
    folders = Folders(data_dir).make(conversation, Fence(1))
    limits = Limits(cpus=1.0, memory_mb=1024, pids=256, tmp_mb=64)
    started = await host.start(ContainerSpec(conversation, Fence(1), folders, limits, True))
    try:
        await probe.listening(folders.sockets)
        async with asyncio.timeout(40):
            reader, writer = await asyncio.open_unix_connection(folders.sockets / "agent.sock")
            writer.write(Hello(worker=WorkerId("w"), fence=Fence(1)).encode() + b"\n")
            answer = decode_answer(await reader.readline())
            writer.close()
            await writer.wait_closed()
    finally:
        await host.stop(started.id)
        await host.aclose()

    assert isinstance(answer, Welcome)
