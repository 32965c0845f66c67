"""The worker's registrar over the real client and a gateway that restarts."""

from __future__ import annotations

from infra.runtime.clock import SystemClock
from infra.wire.ids import ConversationKey, Fence
from tests.fakes.scripted_model import RunningModel
from tests.integration.gateway.conftest import (
    CONVERSATION,
    PATIENCE_S,
    TURN,
    Host,
    HostMaker,
    agent_at,
    asking,
)
from worker.gateway_client.registrar import Gateway, GatewayRegistrar


def registrar_of(host: Host) -> GatewayRegistrar:
    client: Gateway = host.worker
    return GatewayRegistrar(client, SystemClock(), patience_s=PATIENCE_S)


async def test_a_turn_goes_on_after_the_gateway_restarted(
    make_host: HostMaker, model: RunningModel
) -> None:
    host = make_host(upstream_url=model.url)
    registrar = registrar_of(host)
    async with host.gateway():
        folder = host.folder()
        await registrar.open_session(CONVERSATION, sockets=folder, fence=Fence(1))
        await registrar.open_turn(await host.open_turn())
        await registrar.check()
    async with host.gateway():
        await registrar.check()
        async with (
            agent_at(folder) as agent,
            agent.post("/v1/messages", json=asking("echo hi")) as answer,
        ):
            assert answer.status == 200
        meter = await registrar.close_turn(CONVERSATION, TURN)
        assert meter.calls == 1


async def test_a_session_that_is_refused_does_not_keep_the_others_from_being_registered(
    make_host: HostMaker, model: RunningModel
) -> None:
    host = make_host(upstream_url=model.url)
    registrar = registrar_of(host)
    others = [ConversationKey(f"{i}" * 24) for i in range(2)]
    async with host.gateway():
        for c in (CONVERSATION, *others):
            await registrar.open_session(c, sockets=host.folder(c), fence=Fence(1))
        await registrar.check()
    async with host.gateway():
        # A newer owner was quicker: for our first session the gateway will refuse us.
        await host.open_session(fence=2)
        await registrar.check()
        assert (await host.worker.status()).sessions == 3
