"""Renewals of logins, at services that answer late, in pieces, or with nonsense."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence

import pytest
from aiohttp import web

from infra.runtime.clock import SystemClock
from infra.runtime.sealing import LoginSealer
from infra.wire.mcp.logins import McpLogin, OpenLogin, RenewLogin
from worker.gateway.mcp_logins import LOGIN_OVER, SERVICE_FAILED, McpLoginDesk

NAME = "helper/notes"
SEALER = LoginSealer(b"s" * 32)
GRANTED = json.dumps({"access_token": "token-2", "refresh_token": "refresh-2"}).encode()


class Service:
    """Grants a token once: who asks again with the same one gets nothing."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = pieces
        self.asked = 0
        self.is_asked = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.asked += 1
        is_first = self.asked == 1
        self.is_asked.set()
        await self.may_answer.wait()
        answer = web.StreamResponse(status=200 if is_first else 400)
        await answer.prepare(request)
        for piece in self._pieces if is_first else (b"{}",):
            await answer.write(piece)
            await asyncio.sleep(0.05)
        return answer


@contextlib.asynccontextmanager
async def serving(*pieces: bytes) -> AsyncIterator[tuple[Service, RenewLogin]]:
    service = Service(pieces)
    app = web.Application()
    app.router.add_post("/token", service.serve)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    login = McpLogin(
        url=f"http://127.0.0.1:{port}/mcp",
        access_token="token-1",
        refresh_token="refresh-1",
        token_endpoint=f"http://127.0.0.1:{port}/token",
        client_id="client-1",
    )
    try:
        yield service, RenewLogin(name=NAME, sealed=SEALER.seal(login, NAME))
    finally:
        await runner.cleanup()


@pytest.fixture
async def group() -> AsyncIterator[asyncio.TaskGroup]:
    async with asyncio.TaskGroup() as group:
        yield group


@pytest.fixture
def desk(group: asyncio.TaskGroup) -> McpLoginDesk:
    return McpLoginDesk(SEALER, SystemClock(), group)


def token_in(desk: McpLoginDesk, sealed: str) -> str:
    return desk.open(OpenLogin(name=NAME, sealed=sealed)).access_token


async def test_an_answer_that_comes_in_pieces_is_read_to_its_end(desk: McpLoginDesk) -> None:
    async with serving(GRANTED[:20], GRANTED[20:]) as (_, command):
        renewed = (await desk.renew(command)).login
    assert renewed.fault is None
    assert token_in(desk, renewed.sealed) == "token-2"


async def test_a_renewal_outlives_the_worker_that_asked_for_it(
    desk: McpLoginDesk, group: asyncio.TaskGroup
) -> None:
    async with serving(GRANTED) as (service, command):
        service.may_answer.clear()
        asker = group.create_task(desk.renew(command))
        await service.is_asked.wait()
        asker.cancel()
        await asyncio.wait([asker])
        service.may_answer.set()
        await desk.settled()
        renewed = (await desk.renew(command)).login
    assert service.asked == 1
    assert renewed.fault is None
    assert token_in(desk, renewed.sealed) == "token-2"


async def test_two_who_ask_at_once_get_one_renewal(desk: McpLoginDesk) -> None:
    async with serving(GRANTED) as (service, command):
        one, other = await asyncio.gather(desk.renew(command), desk.renew(command))
    assert service.asked == 1
    assert one == other


@pytest.mark.parametrize("nonsense", [b"[" * 60_000, b"\xff", b"[]", b'{"access_token": "a\\nb"}'])
async def test_nonsense_is_no_answer_and_leaves_the_login(
    desk: McpLoginDesk, nonsense: bytes
) -> None:
    async with serving(nonsense) as (_, command):
        kept = (await desk.renew(command)).login
        assert (kept.fault, kept.sealed) == (SERVICE_FAILED, command.sealed)
        # It is asked again the next time.
        assert (await desk.renew(command)).login.fault == LOGIN_OVER
