"""Sessions come and go, the gateway restarts, the process ends."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import stat
import sys
from pathlib import Path

import pytest

from infra.wire.errors import GatewayUnavailable
from infra.wire.gateway import GatewayFault, OpenSession
from infra.wire.ids import ConversationKey, Fence
from infra.wire.socket_folder import EGRESS_SOCKET, MODEL_SOCKET
from tests.fakes.held_connections import held_connections
from tests.fakes.scripted_model import RunningModel
from tests.integration.gateway.conftest import (
    CONVERSATION,
    PATIENCE_S,
    SECRET,
    Host,
    HostMaker,
    agent_at,
    asking,
)
from worker.gateway.listeners import MODEL_CONNECTIONS_MAX
from worker.gateway.model.proxy import HELLO
from worker.gateway_client.client import CommandRefused, GatewayClient


async def test_a_sessions_sockets_appear_and_go_with_it(host: Host) -> None:
    folder = await host.open_session()
    for name in (MODEL_SOCKET, EGRESS_SOCKET):
        assert stat.S_IMODE(os.lstat(folder / name).st_mode) == 0o666
    control = os.lstat(host.config.control_socket)
    assert stat.S_IMODE(control.st_mode) == 0o600
    assert (await host.worker.status()).sessions == 1
    await host.worker.close_session(CONVERSATION, Fence(5))
    assert list(folder.iterdir()) == []
    assert (await host.worker.status()).sessions == 0


async def test_a_link_the_agent_planted_is_not_followed(host: Host, data_dir: Path) -> None:
    precious = data_dir / "precious"
    precious.write_text("precious")
    precious.chmod(0o600)
    for name in (MODEL_SOCKET, EGRESS_SOCKET):
        (host.folder() / name).symlink_to(precious)
    await host.open_session()
    assert precious.read_text() == "precious"
    assert stat.S_IMODE(precious.stat().st_mode) == 0o600


async def test_sockets_that_were_removed_are_made_again(host: Host) -> None:
    folder = await host.open_session()
    await host.open_turn()
    (folder / MODEL_SOCKET).unlink()
    await host.open_session()
    async with (
        agent_at(folder) as agent,
        agent.post("/v1/messages", json=asking("echo hi")) as answer,
    ):
        assert answer.status == 200


async def test_an_agents_connections_are_bounded_and_those_of_its_neighbours_its_own(
    host: Host,
) -> None:
    """A container may hold a million descriptors; the gateway's are everybody's."""
    folder = await host.open_session()
    neighbour = await host.open_session(ConversationKey("d" * 24))
    async with held_connections(folder / MODEL_SOCKET, MODEL_CONNECTIONS_MAX + 50) as held:
        await held.until_closed(50)
        async with agent_at(neighbour) as agent, agent.head(HELLO) as answer:
            assert answer.status == 200
        assert held.closed == 50

    # They went, so there is room.
    await host.open_turn()
    async with (
        agent_at(folder) as agent,
        agent.post("/v1/messages", json=asking("echo hi")) as answer,
    ):
        assert answer.status == 200


async def test_a_worker_that_takes_over_does_not_break_the_stream(host: Host) -> None:
    folder = await host.open_session(fence=1)
    opened = await host.open_turn(fence=1)
    async with (
        agent_at(folder) as agent,
        agent.post("/v1/messages", json=asking("stream 20 deltas every 10 ms")) as answer,
    ):
        await answer.content.readany()
        await host.open_session(fence=2)
        await host.worker.open_turn(opened.model_copy(update={"fence": Fence(2)}))
        assert b"message_stop" in await answer.content.read()
    assert (await host.close_turn()).calls == 1


async def test_refusals_carry_their_reason(host: Host, data_dir: Path) -> None:
    await host.open_session(fence=5)
    stale = GatewayClient(host.config.control_socket)
    elsewhere = OpenSession(socket_dir=str(data_dir.parent), fence=Fence(9))
    async with stale:
        with pytest.raises(CommandRefused) as refused:
            await stale.open_session(
                CONVERSATION, OpenSession(socket_dir=str(host.folder()), fence=Fence(4))
            )
        assert (refused.value.fault, refused.value.fence) == (GatewayFault.STALE_FENCE, 5)
        with pytest.raises(CommandRefused) as refused:
            await stale.close_session(CONVERSATION, Fence(4))
        assert refused.value.fault is GatewayFault.STALE_FENCE
        with pytest.raises(CommandRefused) as refused:
            await stale.open_session(ConversationKey("d" * 24), elsewhere)
        assert refused.value.fault is GatewayFault.NO_SOCKETS
    with pytest.raises(CommandRefused) as refused:
        await host.open_turn(fence=5, lasts_s=-1)
    assert refused.value.fault is GatewayFault.KEY_NOT_OPENED
    await host.worker.close_session(CONVERSATION, Fence(5))
    with pytest.raises(CommandRefused) as refused:
        await host.open_turn()
    assert refused.value.fault is GatewayFault.NO_SESSION


async def test_a_restarted_gateway_is_told_everything_again(
    make_host: HostMaker, model: RunningModel
) -> None:
    host = make_host(upstream_url=model.url)
    async with host.gateway():
        before = await host.worker.status()
        folder = await host.open_session()
        opened = await host.open_turn()
    assert list(folder.iterdir()) == []
    with pytest.raises(GatewayUnavailable):
        await host.worker.status()
    async with host.gateway():
        assert (await host.worker.status()).instance != before.instance
        await host.open_session()
        await host.worker.open_turn(opened)
        async with (
            agent_at(folder) as agent,
            agent.post("/v1/messages", json=asking("echo hi")) as answer,
        ):
            assert answer.status == 200
        assert (await host.close_turn()).calls == 1


async def test_a_stop_lets_the_running_call_finish(
    make_host: HostMaker, model: RunningModel
) -> None:
    host = make_host(upstream_url=model.url, drain_timeout_s=PATIENCE_S)
    async with host.gateway() as stop:
        folder = await host.open_session()
        await host.open_turn()
        async with (
            agent_at(folder) as agent,
            agent.post("/v1/messages", json=asking("stream 20 deltas every 10 ms")) as answer,
        ):
            await answer.content.readany()
            stop.set()
            assert b"message_stop" in await answer.content.read()


async def test_a_stop_with_nothing_running_closes_the_turn_at_once(
    make_host: HostMaker, model: RunningModel
) -> None:
    host = make_host(upstream_url=model.url, drain_timeout_s=3600.0)
    async with asyncio.timeout(PATIENCE_S), host.gateway():
        await host.open_session()
        await host.open_turn()


async def test_the_process_serves_and_leaves_nothing_behind(
    data_dir: Path, model: RunningModel
) -> None:
    process = await _start(data_dir, model.url)
    try:
        assert process.stderr is not None
        async with asyncio.timeout(PATIENCE_S):
            while b"gateway up" not in (line := await process.stderr.readline()):
                assert line, "the gateway ended"
        async with GatewayClient(data_dir / "gateway" / "control.sock") as worker:
            folder = data_dir / "s" / CONVERSATION
            folder.mkdir(parents=True)
            await worker.open_session(
                CONVERSATION, OpenSession(socket_dir=str(folder), fence=Fence(1))
            )
            assert (folder / MODEL_SOCKET).is_socket()
            assert _has_no_core(process.pid)
            second = await _start(data_dir, model.url)
            _, told = await asyncio.wait_for(second.communicate(), PATIENCE_S)
            assert second.returncode == 1
            assert b"already" in told
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert _sockets_under(data_dir) == []


async def test_a_missing_secret_is_named(data_dir: Path) -> None:
    process = await _start(data_dir, "http://127.0.0.1:9", secret="")
    _, told = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert process.returncode == 2
    assert b"AGCLUSTER_SECRET" in told


def _has_no_core(pid: int) -> bool:
    limits = Path(f"/proc/{pid}/limits").read_text()
    return re.search(r"Max core file size +0 +0 ", limits) is not None


def _sockets_under(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_socket()]


async def _start(
    data_dir: Path, upstream: str, *, secret: str = SECRET.decode()
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "worker.gateway.main",
        stderr=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[3],
        env={
            "PATH": os.environ["PATH"],
            "AGCLUSTER_DATA_DIR": str(data_dir),
            "AGCLUSTER_SECRET": secret,
            "AGCLUSTER_ANTHROPIC_BASE_URL": upstream,
        },
    )
