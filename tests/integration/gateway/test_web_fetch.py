"""A page fetched by the real CLI in its container, out through the gateway's egress proxy.

The site is a TLS server on loopback whose name resolves to a "public" address of the test's choice;
the container trusts its certificate and has no other way out.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from infra.runtime.settings import EgressPolicy
from infra.wire.events import ToolCall, ToolResult
from infra.wire.socket_folder import EGRESS_SOCKET
from tests.fakes.contained_agent import ContainedAgent, scripted_model
from tests.fakes.link_client import connected, start_turn, text_of
from tests.integration.gateway.conftest import HostMaker
from tests.integration.gateway.test_egress import LOOPBACK, NameBook, around
from tests.parts import need
from worker.gateway.egress.proxy import EgressRules

pytestmark = [pytest.mark.docker, pytest.mark.timeout(240)]

SITE = "site.example"
PAGE = "<html><body><h1>The tide table</h1><p>High water at noon.</p></body></html>"


@dataclass
class Site:
    """Answers every request with the page."""

    port: int = 0
    requests: list[str] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Tools open connections they then do not use.
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.requests.append(head.splitlines()[0])
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (len(PAGE), PAGE.encode())
            )
            await writer.drain()
        writer.close()


@asynccontextmanager
async def site(folder: Path) -> AsyncIterator[Site]:
    """The site, over TLS; its certificate is left in the folder."""
    certificate, key = folder / "site.pem", folder / "site.key"
    make_certificate(certificate, key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    made = Site()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, ssl=context)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()


def make_certificate(certificate: Path, key: Path) -> None:
    """A certificate for the site that signs itself."""
    secret = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, SITE)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(secret.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(SITE)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(secret, hashes.SHA256())
    )
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key.write_bytes(
        secret.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


@asynccontextmanager
async def led_to(agent: ContainedAgent, gateway: Path) -> AsyncIterator[None]:
    """The gateway's egress socket in the agent's folder, no matter who owns which."""

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        out_reader, out_writer = await asyncio.open_unix_connection(str(gateway / EGRESS_SOCKET))
        async with asyncio.TaskGroup() as group:
            group.create_task(pass_on(reader, out_writer))
            group.create_task(pass_on(out_reader, writer))

    path = agent.sockets / EGRESS_SOCKET
    server = await asyncio.start_unix_server(carry, path=str(path))
    path.chmod(0o777)
    try:
        yield
    finally:
        server.close()


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def test_a_page_is_fetched_by_the_egress_proxy_and_only_there(
    make_host: HostMaker, tmp_path: Path
) -> None:
    need("docker")
    async with site(tmp_path) as served:
        book = NameBook(site_example=[[LOOPBACK]])
        rules = EgressRules(EgressPolicy.ALLOWLIST, (SITE,), frozenset({443, served.port}))
        host = make_host(egress=rules, surroundings=around(book))
        with scripted_model() as model:
            agent = ContainedAgent(model, env={"NODE_EXTRA_CA_CERTS": "/workspace/site.pem"})
            async with host.gateway(), agent:
                (agent.workspace / "site.pem").write_bytes((tmp_path / "site.pem").read_bytes())
                folder = await host.open_session()
                await host.open_turn()
                async with led_to(agent, folder), connected(agent.socket) as (link, _):
                    allowed = f"https://{SITE}:{served.port}/tides"
                    other = "https://other.example/"
                    events = await link.run(
                        start_turn(
                            "t",
                            f'tool WebFetch {{"url":"{allowed}","prompt":"echo noon"}}'
                            f' then tool WebFetch {{"url":"{other}","prompt":"echo no"}}'
                            " then echo done",
                            tools=("WebFetch",),
                        )
                    )
    assert served.requests == ["GET /tides HTTP/1.1"]
    assert book.asked == [SITE]
    assert [e.summary for e in events if isinstance(e, ToolCall)] == [allowed, other]
    results = [e for e in events if isinstance(e, ToolResult)]
    assert [e.is_error for e in results] == [False, True]
    assert results[0].summary == "ok"
    assert text_of(events) == "done"
