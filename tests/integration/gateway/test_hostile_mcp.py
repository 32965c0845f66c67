"""What an MCP server that means harm can do: nothing but give a bad answer to its own call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from infra.runtime.settings import EgressPolicy
from infra.wire.agents.mcp import McpServer
from tests.integration.gateway.conftest import PATIENCE_S, Host, HostMaker
from tests.integration.gateway.test_egress import ask, tool_at
from worker.gateway.egress.mcp import McpSecrets
from worker.gateway.egress.mcp_answer import ANSWER_MAX_BYTES
from worker.gateway.egress.proxy import EgressRules

ASKS = "POST http://bad.mcp.internal/ HTTP/1.1\nContent-Length: 0"
SECRETS = McpSecrets('{"BAD": "for-the-bad-one", "GOOD": "for-the-good-one"}')


class Hostile:
    """Answers anybody who comes with what it was given, piece by piece, and then waits."""

    def __init__(self, *pieces: bytes, hangs: bool = False) -> None:
        self.pieces = pieces
        self.hangs = hangs
        self.port = 0
        self.seen: list[bytes] = []
        self.is_asked = asyncio.Event()
        self.is_left = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.seen.append(await reader.readuntil(b"\r\n\r\n"))
            self.is_asked.set()
            for piece in self.pieces:
                writer.write(piece)
                await writer.drain()
            if self.hangs:
                await reader.read()
        except ConnectionError:
            pass  # Cut off: what some tests are about.
        finally:
            self.is_left.set()
            writer.close()


@asynccontextmanager
async def listening(server: Hostile) -> AsyncIterator[Hostile]:
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()


def at(server: Hostile, secret: str, *, timeout_s: float = 30.0) -> McpServer:
    return McpServer(
        url=f"http://127.0.0.1:{server.port}/mcp",
        headers={"Authorization": f"Bearer ${{{secret}}}"},
        timeout_s=timeout_s,
    )


@pytest.fixture
def host(make_host: HostMaker) -> Host:
    rules = EgressRules(EgressPolicy.ALLOWLIST, ("allowed.example",))
    return make_host(egress=rules, mcp_secrets=SECRETS)


@pytest.mark.parametrize("target", ["http://good.mcp.internal/", "http://169.254.169.254/latest/"])
async def test_it_cannot_send_the_agent_elsewhere(host: Host, target: str) -> None:
    redirect = f"HTTP/1.1 307 Go\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode()
    good = Hostile(b"HTTP/1.1 200 OK\r\n\r\n")
    async with listening(Hostile(redirect)) as bad, listening(good), host.gateway():
        folder = await host.open_session()
        await host.open_turn(mcp_servers={"bad": at(bad, "BAD"), "good": at(good, "GOOD")})
        status, raw = await ask(folder, ASKS)
    assert status == 502
    assert "location" not in raw.lower()
    assert b"for-the-bad-one" in bad.seen[0]
    assert b"for-the-good-one" not in bad.seen[0]
    assert good.seen == []


async def test_of_its_headers_only_the_protocols_arrive(host: Host) -> None:
    answer = (
        b"HTTP/1.1 401 Who\r\nWWW-Authenticate: Bearer resource_metadata=http://10.0.0.1/\r\n"
        b"Set-Cookie: a=b\r\nLink: <http://x/>; rel=preload\r\nMcp-Session-Id: 7\r\n"
        b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    )
    async with listening(Hostile(answer)) as bad, host.gateway():
        folder = await host.open_session()
        await host.open_turn(mcp_servers={"bad": at(bad, "BAD")})
        _, raw = await ask(folder, ASKS)
    assert raw.split("\r\n") == [
        "HTTP/1.1 401 MCP",
        "Mcp-Session-Id: 7",
        "Content-Type: application/json",
        "Content-Length: 2",
        "Connection: close",
        "",
        "{}",
    ]


@pytest.mark.parametrize(
    "answer",
    [
        b"nothing that is HTTP\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: any\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\nInjected: b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"",
    ],
    ids=["words", "upgrade", "header", "injection", "huge", "nothing"],
)
async def test_what_is_no_answer_is_a_502(host: Host, answer: bytes) -> None:
    async with listening(Hostile(answer)) as bad, host.gateway():
        folder = await host.open_session()
        await host.open_turn(mcp_servers={"bad": at(bad, "BAD")})
        status, raw = await ask(folder, ASKS)
    assert status == 502
    assert "Injected" not in raw


async def test_its_answer_ends_at_its_limit(host: Host) -> None:
    piece = b"z" * 1024 * 1024
    endless = (b"HTTP/1.1 200 OK\r\n\r\n", *([piece] * (ANSWER_MAX_BYTES // len(piece) + 8)))
    async with listening(Hostile(*endless)) as bad, host.gateway():
        folder = await host.open_session()
        await host.open_turn(mcp_servers={"bad": at(bad, "BAD")})
        async with tool_at(folder) as (reader, writer):
            writer.write(ASKS.replace("\n", "\r\n").encode() + b"\r\n\r\n")
            size = 0
            while data := await reader.read(1024 * 1024):
                size += len(data)
    assert size <= ANSWER_MAX_BYTES + 1024


@pytest.mark.parametrize(
    ("pieces", "status"), [((), 504), ((b"HTTP/1.1 200 OK\r\n\r\n", b"a little"), 200)]
)
async def test_one_that_does_not_finish_is_left_in_time(
    host: Host, pieces: tuple[bytes, ...], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.gateway.egress.mcp.TIMEOUT_SLACK_S", 0.0)
    async with listening(Hostile(*pieces, hangs=True)) as bad, host.gateway():
        folder = await host.open_session()
        await host.open_turn(mcp_servers={"bad": at(bad, "BAD", timeout_s=0.2)})
        assert (await ask(folder, ASKS))[0] == status
        async with asyncio.timeout(PATIENCE_S):
            await bad.is_left.wait()


async def test_an_agent_that_leaves_frees_a_server_that_thinks(host: Host) -> None:
    async with listening(Hostile(hangs=True)) as bad, host.gateway():
        folder = await host.open_session()
        await host.open_turn(mcp_servers={"bad": at(bad, "BAD")})
        async with tool_at(folder) as (_, writer):
            writer.write(ASKS.replace("\n", "\r\n").encode() + b"\r\n\r\n")
            async with asyncio.timeout(PATIENCE_S):
                await bad.is_asked.wait()
        async with asyncio.timeout(PATIENCE_S):
            await bad.is_left.wait()


async def test_the_servers_of_other_agents_have_no_names_here(host: Host) -> None:
    async with listening(Hostile()) as bad, host.gateway():
        folder = await host.open_session()
        await host.open_turn(mcp_servers={"bad": at(bad, "BAD")})
        for name in ("good", "bad.x", "x.bad"):
            asks = ASKS.replace("bad.mcp", f"{name}.mcp")
            assert (await ask(folder, asks))[0] == 404, name
    assert bad.seen == []
