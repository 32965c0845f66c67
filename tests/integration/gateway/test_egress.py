"""The agents' way to the internet, over real sockets; only the names are made up."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest

from infra.runtime.settings import EgressPolicy, EgressProfile
from infra.wire.agents.mcp import McpServer
from infra.wire.ids import TurnId
from infra.wire.options import ConversationOptions
from infra.wire.socket_folder import EGRESS_SOCKET
from tests.fakes.scripted_model import RunningModel
from tests.integration.gateway.conftest import CONVERSATION, PATIENCE_S, TURN, Host, HostMaker
from worker.gateway.egress.addresses import IPAddress, why_refused
from worker.gateway.egress.carrying import MCP_REQUESTS_MAX, EgressLimits
from worker.gateway.egress.proxy import EgressRules
from worker.gateway.main import Outside

PUBLIC = ipaddress.ip_address("93.184.216.34")
LOOPBACK = ipaddress.ip_address("127.0.0.1")


class NameBook:
    """A resolver with a list of answers for each name: the last one is given for ever."""

    def __init__(self, **answers: Sequence[Sequence[IPAddress]]) -> None:
        self._answers = {name.replace("_", "."): list(given) for name, given in answers.items()}
        self.asked: list[str] = []

    async def resolve(self, host: str) -> Sequence[IPAddress]:
        self.asked.append(host)
        given = self._answers.get(host)
        if given is None:
            raise OSError("unknown")
        return given.pop(0) if len(given) > 1 else given[0]


def but_loopback(address: IPAddress) -> str | None:
    """The test's own server is on loopback, so that one address counts as public."""
    return None if address == LOOPBACK else why_refused(address)


class Echo:
    """A server that says what it was sent, in capitals, and notes who came."""

    def __init__(self) -> None:
        self.port = 0
        self.seen: list[bytes] = []
        self.is_left = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                self.seen.append(data)
                if data.startswith(b"POST /mcp "):
                    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
                writer.write(data.upper())
                await writer.drain()
        except ConnectionError:
            pass  # Cut off: what some tests are about.
        finally:
            self.is_left.set()
            writer.close()


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    made = Echo()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()


@asynccontextmanager
async def tool_at(
    folder: Path,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """What curl is to the proxy."""
    reader, writer = await asyncio.open_unix_connection(str(folder / EGRESS_SOCKET))
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield reader, writer
    finally:
        writer.close()


async def ask(folder: Path, head: str) -> tuple[int, str]:
    """One request to the proxy: its status, and the rest."""
    async with tool_at(folder) as (reader, writer):
        writer.write(head.replace("\n", "\r\n").encode() + b"\r\n\r\n")
        raw = (await reader.read()).decode()
    return int(raw.split(" ", 2)[1]), raw


async def tunnel_status(folder: Path, target: str) -> int:
    """What the proxy says to a tunnel, which is then given up."""
    async with tool_at(folder) as (reader, writer):
        writer.write(f"CONNECT {target} HTTP/1.1\r\n\r\n".encode())
        line = await reader.readline()
    return int(line.split()[1])


def rules(echo: Echo, *allow: str, policy: EgressPolicy = EgressPolicy.PUBLIC) -> EgressRules:
    return EgressRules(policy, allow, frozenset({80, 443, echo.port}))


def said_of(caplog: pytest.LogCaptureFixture, event: str) -> list[Mapping[str, object]]:
    """The fields of every such line."""
    return [vars(r)["agc_fields"] for r in caplog.records if r.getMessage() == event]


def around(book: NameBook) -> Outside:
    return Outside(resolver=book, why_refused=but_loopback)


@asynccontextmanager
async def busy(host: Host) -> AsyncIterator[Path]:
    """The host with a session whose turn is open."""
    async with host.gateway():
        folder = await host.open_session()
        await host.open_turn()
        yield folder


async def test_a_tunnel_carries_bytes_both_ways_to_the_address_that_was_judged(
    make_host: HostMaker, echo: Echo, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    book = NameBook(site_example=[[LOOPBACK]])
    host = make_host(egress=rules(echo), surroundings=around(book))
    async with busy(host) as folder, tool_at(folder) as (reader, writer):
        writer.write(f"CONNECT site.example:{echo.port} HTTP/1.1\r\n\r\n".encode())
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        for said in (b"hello", b"again"):
            writer.write(said)
            assert await reader.readexactly(5) == said.upper()
        writer.write_eof()
        assert await reader.read() == b""
    assert book.asked == ["site.example"]
    told = {
        "conversation": CONVERSATION,
        "turn": TURN,
        "host": "site.example",
        "port": echo.port,
    }
    assert said_of(caplog, "egress allowed") == [told | {"address": "127.0.0.1"}]
    assert said_of(caplog, "egress over") == [told | {"sent": 10, "received": 10}]


async def test_a_plain_request_reaches_its_server(
    make_host: HostMaker, model: RunningModel, echo: Echo
) -> None:
    port = int(model.url.rsplit(":", 1)[1])
    host = make_host(
        egress=EgressRules(EgressPolicy.PUBLIC, (), frozenset({port})),
        surroundings=around(NameBook(site_example=[[LOOPBACK]])),
    )
    async with busy(host) as folder:
        status, raw = await ask(
            folder,
            f"GET http://site.example:{port}/v1/models HTTP/1.1\n"
            "Host: site.example\nx-api-key: k\nProxy-Connection: keep-alive",
        )
    assert status == 200
    assert "claude-" in raw
    seen = model.journal.entries[0]
    assert seen.headers["host"] == f"site.example:{port}"
    assert "proxy-connection" not in seen.headers


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "10.0.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "::1",
        "::ffff:a00:1",
        "64:ff9b::a00:1",
        "fd00::1",
        "fe80::1",
    ],
)
async def test_a_name_with_one_bad_address_among_good_ones_is_refused(
    make_host: HostMaker, echo: Echo, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    book = NameBook(sly_example=[[LOOPBACK, PUBLIC, ipaddress.ip_address(address)]])
    host = make_host(egress=rules(echo), surroundings=around(book))
    async with busy(host) as folder:
        status, raw = await ask(folder, f"CONNECT sly.example:{echo.port} HTTP/1.1")
    assert status == 403
    assert "sly.example" in raw
    assert not any(str(one) in raw for one in (LOOPBACK, PUBLIC, ipaddress.ip_address(address)))
    assert echo.seen == []
    [refused] = said_of(caplog, "egress refused")
    assert (refused["host"], refused["turn"]) == ("sly.example", TURN)
    assert str(ipaddress.ip_address(address)) in str(refused["address"])


async def test_a_refusal_tells_an_agent_nothing_of_our_networks(
    make_host: HostMaker, echo: Echo
) -> None:
    """It told which private address a name has, and so who lives where behind the gateway."""
    inside = ("10.0.0.1", "169.254.169.254", "::1")
    book = NameBook(
        **{f"n{i}_example": [[ipaddress.ip_address(one)]] for i, one in enumerate(inside)}
    )
    host = make_host(egress=rules(echo), surroundings=around(book))
    said = set()
    async with busy(host) as folder:
        for i in range(len(inside)):
            _, raw = await ask(folder, f"CONNECT n{i}.example:{echo.port} HTTP/1.1")
            said.add(raw.replace(f"n{i}.example", "?"))
    assert len(said) == 1


@pytest.mark.parametrize("literal", ["169.254.169.254", "[::1]", "[::ffff:127.0.0.1]", "10.1.2.3"])
async def test_addresses_are_judged_like_names(
    make_host: HostMaker, echo: Echo, literal: str
) -> None:
    host = make_host(egress=rules(echo), surroundings=around(NameBook()))
    async with busy(host) as folder:
        status, _ = await ask(folder, f"CONNECT {literal}:443 HTTP/1.1")
        assert status == 403
        status, _ = await ask(folder, f"GET http://{literal}/latest/meta-data HTTP/1.1")
        assert status == 403


@pytest.mark.parametrize(
    "spelling",
    [
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "127.0.0.1.",
        "user@127.0.0.1",
        "[fe80::1%25eth0]",
        "[::ffff:127.0.0.1%25lo]",
        "site.example\\@127.0.0.1",
        "127.0.0.1#.site.example",
    ],
)
async def test_odd_spellings_of_addresses_open_nothing(
    make_host: HostMaker, echo: Echo, spelling: str
) -> None:
    book = NameBook()
    host = make_host(egress=rules(echo), surroundings=Outside(resolver=book))
    async with busy(host) as folder:
        for line in (f"CONNECT {spelling}:{echo.port}", f"GET http://{spelling}:{echo.port}/"):
            status, _ = await ask(folder, f"{line} HTTP/1.1")
            assert status in (400, 403)
    assert (book.asked, echo.seen) == ([], [])


async def test_localhost_is_seen_through(
    make_host: HostMaker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    host = make_host()
    async with busy(host) as folder:
        status, _ = await ask(folder, "CONNECT localhost:80 HTTP/1.1")
    assert status == 403
    assert "loopback" in str(said_of(caplog, "egress refused")[0]["address"])


async def test_the_clusters_own_public_addresses_are_refused(
    make_host: HostMaker, echo: Echo, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    book = NameBook(api_example=[[PUBLIC]], redis_example=[[ipaddress.ip_address("8.8.4.4")]])
    host = make_host(
        egress=rules(echo),
        surroundings=around(book),
        denied=(ipaddress.ip_network("93.184.216.0/24"),),
        neighbours=("redis.example", "unknown.example"),
    )
    async with busy(host) as folder:
        for name in ("api.example", "redis.example", "8.8.4.4"):
            status, raw = await ask(folder, f"CONNECT {name}:443 HTTP/1.1")
            assert (status, "cluster" in raw) == (403, False)
    refused = said_of(caplog, "egress refused")
    assert ["of this cluster" in str(one["address"]) for one in refused] == [True] * 3


async def test_a_redirect_to_another_host_is_a_request_like_any_other(
    make_host: HostMaker, echo: Echo
) -> None:
    """The proxy follows nothing: the tool asks again, and that is judged on its own."""
    book = NameBook(site_example=[[LOOPBACK]], inside_example=[[ipaddress.ip_address("10.0.0.1")]])
    host = make_host(egress=rules(echo), surroundings=around(book))
    async with busy(host) as folder:
        status, _ = await ask(folder, f"GET http://inside.example:{echo.port}/ HTTP/1.1")
    assert status == 403
    assert book.asked == ["inside.example"]


async def test_a_turn_goes_out_by_its_egress_profile(make_host: HostMaker, echo: Echo) -> None:
    profiles = {
        "pip": EgressProfile(policy=EgressPolicy.ALLOWLIST, allow=(".pypi.example",)),
        "all": EgressProfile(policy=EgressPolicy.PUBLIC),
    }
    found = [[LOOPBACK]]
    book = NameBook(files_pypi_example=found, site_example=found)
    host = make_host(
        egress=EgressRules(EgressPolicy.NONE, (), frozenset({echo.port}), profiles),
        surroundings=around(book),
    )
    open_to = {
        None: (403, 403),
        "pip": (200, 403),
        "all": (200, 200),
        "unknown": (403, 403),
    }
    async with host.gateway():
        folder = await host.open_session()
        for n, (profile, wanted) in enumerate(open_to.items()):
            turn = TurnId(f"turn_{n:032x}")
            await host.open_turn(turn, options=ConversationOptions(egress_profile=profile))
            for name, status in zip(("files.pypi.example", "site.example"), wanted, strict=True):
                assert await tunnel_status(folder, f"{name}:{echo.port}") == status
            await host.close_turn(turn)


async def test_bandwidth_of_a_session_is_bounded(make_host: HostMaker, echo: Echo) -> None:
    """Bytes wait for their time: a burst of one second's passes, the rest at the rate."""
    host = make_host(
        egress=rules(echo),
        surroundings=around(NameBook(site_example=[[LOOPBACK]])),
        egress_limits=EgressLimits(bytes_per_s=20_000, idle_timeout_s=0.3),
    )
    async with busy(host) as folder, tool_at(folder) as (reader, writer):
        writer.write(f"CONNECT site.example:{echo.port} HTTP/1.1\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        begun = asyncio.get_running_loop().time()
        writer.write(b"x" * 20_000)
        assert len(await reader.readexactly(20_000)) == 20_000
        assert asyncio.get_running_loop().time() - begun > 0.8


async def test_connections_beyond_the_rate_wait_and_are_then_refused(
    make_host: HostMaker, echo: Echo
) -> None:
    host = make_host(
        egress=rules(echo),
        surroundings=around(NameBook(site_example=[[LOOPBACK]])),
        egress_limits=EgressLimits(connections_per_minute=2, rate_wait_s=0.05),
    )
    async with busy(host) as folder:
        found = [await tunnel_status(folder, f"site.example:{echo.port}") for _ in range(3)]
    assert found == [200, 200, 429]


async def test_the_bytes_of_a_turn_are_counted_over_all_its_connections(
    make_host: HostMaker, echo: Echo
) -> None:
    host = make_host(
        egress=rules(echo),
        surroundings=around(NameBook(site_example=[[LOOPBACK]])),
        egress_limits=EgressLimits(turn_bytes_max=25),
    )
    async with busy(host) as folder:
        for wanted in (b"TEN BYTES.", b""):
            async with tool_at(folder) as (reader, writer):
                writer.write(f"CONNECT site.example:{echo.port} HTTP/1.1\r\n\r\n".encode())
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"ten bytes.")
                writer.write_eof()
                assert await reader.read() == wanted


async def test_a_name_that_changes_its_address_gains_nothing(
    make_host: HostMaker, echo: Echo
) -> None:
    """DNS rebinding: the connection goes to the address that was judged, without asking again."""
    book = NameBook(rebind_example=[[LOOPBACK], [ipaddress.ip_address("10.0.0.1")]])
    host = make_host(egress=rules(echo), surroundings=around(book))
    async with busy(host) as folder:
        async with tool_at(folder) as (reader, writer):
            writer.write(f"CONNECT rebind.example:{echo.port} HTTP/1.1\r\n\r\n".encode())
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
            assert book.asked == ["rebind.example"]
        status, _ = await ask(folder, f"CONNECT rebind.example:{echo.port} HTTP/1.1")
        assert status == 403


async def test_a_refusal_says_why(make_host: HostMaker, echo: Echo) -> None:
    host = make_host(
        egress=rules(echo, "pypi.org", policy=EgressPolicy.ALLOWLIST),
        surroundings=around(NameBook(pypi_org=[[LOOPBACK]])),
    )
    async with busy(host) as folder:
        status, raw = await ask(folder, "CONNECT evil.example:443 HTTP/1.1")
        assert status == 403
        assert raw.endswith(
            "egress refused: host evil.example is not on this deployment's allowlist\n"
        )
        status, raw = await ask(folder, "CONNECT pypi.org:22 HTTP/1.1")
        assert (status, "port 22" in raw) == (403, True)
        status, raw = await ask(folder, "GET / HTTP/1.1")
        assert (status, "this is a proxy" in raw) == (400, True)
        status, raw = await ask(folder, f"CONNECT unknown.pypi.org:{echo.port} HTTP/1.1")
        assert status == 403


async def test_policy_none_refuses_everything(make_host: HostMaker, echo: Echo) -> None:
    host = make_host(egress=rules(echo, policy=EgressPolicy.NONE))
    async with busy(host) as folder:
        status, raw = await ask(folder, "CONNECT pypi.org:443 HTTP/1.1")
    assert (status, "no internet access" in raw) == (403, True)


async def test_there_is_no_way_out_between_turns(make_host: HostMaker, echo: Echo) -> None:
    host = make_host(egress=rules(echo), surroundings=around(NameBook(site_example=[[LOOPBACK]])))
    async with host.gateway():
        folder = await host.open_session()
        status, raw = await ask(folder, f"CONNECT site.example:{echo.port} HTTP/1.1")
        assert (status, "between turns" in raw) == (403, True)
    assert echo.seen == []


async def test_connections_end_with_their_turn(make_host: HostMaker, echo: Echo) -> None:
    host = make_host(egress=rules(echo), surroundings=around(NameBook(site_example=[[LOOPBACK]])))
    async with busy(host) as folder, tool_at(folder) as (reader, writer):
        writer.write(f"CONNECT site.example:{echo.port} HTTP/1.1\r\n\r\nhi".encode())
        await reader.readuntil(b"HI")
        await host.close_turn()
        assert await reader.read() == b""
        async with asyncio.timeout(PATIENCE_S):
            await echo.is_left.wait()


async def test_connections_of_a_session_are_bounded(make_host: HostMaker, echo: Echo) -> None:
    host = make_host(
        egress=rules(echo),
        surroundings=around(NameBook(site_example=[[LOOPBACK]])),
        egress_limits=EgressLimits(connections_max=1),
    )
    async with busy(host) as folder, tool_at(folder) as (reader, writer):
        writer.write(f"CONNECT site.example:{echo.port} HTTP/1.1\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        status, raw = await ask(folder, f"CONNECT site.example:{echo.port} HTTP/1.1")
        assert (status, "too many connections" in raw) == (429, True)


async def test_what_asks_mcp_servers_is_bounded_and_counted(
    make_host: HostMaker, echo: Echo
) -> None:
    host = make_host(
        egress=rules(echo, policy=EgressPolicy.ALLOWLIST),
        egress_limits=EgressLimits(turn_bytes_max=30_000),
    )
    head = "POST http://echo.mcp.internal/ HTTP/1.1\r\nContent-Length: {}\r\n\r\n"
    server = McpServer(url=f"http://{LOOPBACK}:{echo.port}/mcp")
    async with host.gateway(), AsyncExitStack() as stack:
        folder = await host.open_session()
        await host.open_turn(mcp_servers={"echo": server})
        for _ in range(MCP_REQUESTS_MAX):
            reader, writer = await stack.enter_async_context(tool_at(folder))
            writer.write(head.format(5).encode() + b"hello and more")
            answered = await reader.readuntil(b"HELLO")
            assert b"POST /MCP HTTP/1.1" in answered
            assert b"AND MORE" not in answered
        status, _ = await ask(folder, head.format(5).replace("\r\n", "\n").strip())
        assert status == 429
        await stack.aclose()
        said = b"HTTP/1.1 429"
        async with asyncio.timeout(PATIENCE_S):
            while said.startswith(b"HTTP/1.1 429"):  # Until those who left are noticed.
                async with tool_at(folder) as (reader, writer):
                    writer.write(head.format(40_000).encode() + b"x" * 40_000)
                    said = await reader.read()
        assert said == b"", "more than its turn may send"


@pytest.mark.parametrize(
    "limits", [EgressLimits(idle_timeout_s=0.2), EgressLimits(turn_bytes_max=10)]
)
async def test_silent_and_huge_connections_are_cut(
    make_host: HostMaker, echo: Echo, limits: EgressLimits
) -> None:
    host = make_host(
        egress=rules(echo),
        surroundings=around(NameBook(site_example=[[LOOPBACK]])),
        egress_limits=limits,
    )
    async with busy(host) as folder, tool_at(folder) as (reader, writer):
        writer.write(f"CONNECT site.example:{echo.port} HTTP/1.1\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        if limits.turn_bytes_max == 10:
            writer.write(b"more than ten bytes")
        assert await reader.read() == b""


async def test_a_tool_that_leaves_frees_its_server(make_host: HostMaker, echo: Echo) -> None:
    host = make_host(egress=rules(echo), surroundings=around(NameBook(site_example=[[LOOPBACK]])))
    async with busy(host) as folder:
        async with tool_at(folder) as (reader, writer):
            writer.write(f"CONNECT site.example:{echo.port} HTTP/1.1\r\n\r\nhi".encode())
            await reader.readuntil(b"HI")
        async with asyncio.timeout(PATIENCE_S):
            await echo.is_left.wait()


async def test_a_server_that_is_not_there_is_a_502(make_host: HostMaker, echo: Echo) -> None:
    host = make_host(
        egress=EgressRules(EgressPolicy.PUBLIC, (), frozenset({9})),
        surroundings=around(NameBook(site_example=[[LOOPBACK]])),
    )
    async with busy(host) as folder:
        status, raw = await ask(folder, "CONNECT site.example:9 HTTP/1.1")
        assert (status, "does not answer" in raw) == (502, True)
        status, raw = await ask(folder, "CONNECT nowhere.example:9 HTTP/1.1")
        assert (status, "is not known" in raw) == (502, True)


@pytest.mark.parametrize("sent", [b"", b"CONNECT", b"x" * 100_000])
async def test_half_a_request_harms_nobody(make_host: HostMaker, echo: Echo, sent: bytes) -> None:
    host = make_host(egress=rules(echo), surroundings=around(NameBook(site_example=[[LOOPBACK]])))
    async with busy(host) as folder:
        async with tool_at(folder) as (reader, writer):
            writer.write(sent)
            writer.write_eof()
            with suppress(ConnectionError):  # Cut off before it had said it all.
                assert b" 200 " not in await reader.read()
        status, _ = await ask(folder, "GET / HTTP/1.1")
        assert status == 400
