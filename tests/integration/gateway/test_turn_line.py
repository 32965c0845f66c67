"""Turns are opened and closed over one line that stays: in order, and made again when it breaks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from infra.wire.errors import GatewayUnavailable
from infra.wire.gateway import (
    CloseTurn,
    GatewayFault,
    GatewayRefused,
    GatewayStatus,
    TurnMeter,
    decode_meter,
    decode_refused,
    decode_turn_answer,
)
from infra.wire.ids import ConversationKey, Fence, TurnId
from tests.fakes.manual_clock import settle
from tests.integration.gateway.conftest import CONVERSATION, TURN, Host, HostMaker
from worker.gateway_client.client import CommandRefused

OTHER = ConversationKey("d" * 24)
NOWHERE = "http://127.0.0.1:1"


@asynccontextmanager
async def raw(host: Host) -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP client on the control socket."""
    connector = aiohttp.UnixConnector(path=str(host.config.control_socket))
    async with aiohttp.ClientSession("http://gateway", connector=connector) as session:
        yield session


async def test_commands_that_are_sent_at_once_get_each_its_own_answer(
    make_host: HostMaker,
) -> None:
    host = make_host(upstream_url=NOWHERE)
    async with host.gateway():
        await host.open_session()
        request = await host.open_turn()
        elsewhere = request.model_copy(update={"conversation": OTHER})

        async def refused() -> GatewayFault:
            with pytest.raises(CommandRefused) as error:
                await host.worker.open_turn(elsewhere)
            return error.value.fault

        async with asyncio.TaskGroup() as group:
            opened = [group.create_task(host.worker.open_turn(request)) for _ in range(20)]
            faults = [group.create_task(refused()) for _ in range(20)]
            closed = [group.create_task(host.close_turn(TurnId("turn_x"))) for _ in range(20)]
        assert {type(task.result()) for task in opened} == {GatewayStatus}
        assert {task.result() for task in faults} == {GatewayFault.NO_SESSION}
        assert {type(task.result()) for task in closed} == {TurnMeter}


async def test_a_line_that_a_restart_broke_is_made_again(make_host: HostMaker) -> None:
    host = make_host(upstream_url=NOWHERE)
    async with host.gateway():
        await host.open_session()
        await host.open_turn()
    with pytest.raises(GatewayUnavailable):
        await host.open_turn()
    async with host.gateway():
        with pytest.raises(CommandRefused) as refused:
            await host.open_turn()
        assert refused.value.fault is GatewayFault.NO_SESSION
        await host.open_session()
        await host.open_turn()


async def test_the_answer_of_a_command_that_was_given_up_is_not_taken_for_anothers(
    make_host: HostMaker,
) -> None:
    host = make_host(upstream_url=NOWHERE)
    async with host.gateway():
        await host.open_session()
        request = await host.open_turn()
        for passes in range(8):
            async with asyncio.TaskGroup() as group:
                giving_up = group.create_task(host.worker.open_turn(request))
                await settle(passes)
                giving_up.cancel()
            meter = await host.close_turn()
            assert isinstance(meter, TurnMeter)
            assert isinstance(await host.worker.open_turn(request), GatewayStatus)


async def test_odd_messages_are_refused_and_odd_frames_end_the_line_only(
    make_host: HostMaker,
) -> None:
    host = make_host(upstream_url=NOWHERE)
    async with host.gateway(), raw(host) as session:
        await host.open_session()
        line = await session.ws_connect("/turns")
        for odd in (b"", b"{", b"[]", b'{"type":"open_session"}', b'{"type":"close_turn"}'):
            await line.send_bytes(odd)
            answer = decode_turn_answer(await line.receive_bytes())
            assert isinstance(answer, GatewayRefused)
            assert answer.fault is GatewayFault.BAD_REQUEST
        await line.send_str("text")
        assert (await line.receive()).type is aiohttp.WSMsgType.CLOSE
        await host.open_turn()


async def test_a_stale_owner_cannot_close_its_successors_turn(make_host: HostMaker) -> None:
    host = make_host(upstream_url=NOWHERE)
    async with host.gateway(), raw(host) as session:
        await host.open_session(fence=2)
        await host.open_turn(fence=2)
        line = await session.ws_connect("/turns")
        stale = CloseTurn(turn=TURN, conversation=CONVERSATION, fence=Fence(1))
        await line.send_bytes(stale.encode())
        refused = decode_refused(await line.receive_bytes())
        await line.close()
        assert (refused.fault, refused.fence) == (GatewayFault.STALE_FENCE, 2)


async def test_a_worker_of_an_earlier_build_is_served(make_host: HostMaker) -> None:
    host = make_host(upstream_url=NOWHERE)
    async with host.gateway(), raw(host) as session:
        await host.open_session()
        request = await host.open_turn()
        path = f"/sessions/{CONVERSATION}/turn"
        async with session.put(path, data=request.encode()) as answer:
            assert answer.status == 200
        async with session.delete(f"{path}/{TURN}?fence=1") as answer:
            assert decode_meter(await answer.read()).calls == 0
        async with session.delete(f"{path}/{TurnId('turn_x')}?fence=0") as answer:
            assert answer.status == 409
