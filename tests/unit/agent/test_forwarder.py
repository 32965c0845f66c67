"""A loopback port that leads to the egress socket."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from agent.forwarder import Forwarder


@pytest.fixture
def egress() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="agc-", dir="/tmp") as folder:
        yield Path(folder) / "egress.sock"


@asynccontextmanager
async def shouting_proxy(path: Path) -> AsyncIterator[None]:
    """Answers each connection with what it said, in capitals, once that has ended."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read()).upper())
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(answer, path=path)
    try:
        yield
    finally:
        server.close()


async def test_there_is_no_proxy_without_an_egress_socket(egress: Path) -> None:
    async with asyncio.TaskGroup() as group:
        assert await Forwarder(egress, group, port=0).proxy_url() is None


async def test_bytes_go_both_ways_and_a_half_closed_connection_is_answered(egress: Path) -> None:
    async with shouting_proxy(egress), asyncio.timeout(20), asyncio.TaskGroup() as group:
        forwarder = Forwarder(egress, group, port=0)
        url = await forwarder.proxy_url()
        assert url is not None
        assert await forwarder.proxy_url() == url
        address = urlsplit(url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(b"connect " + b"x" * 200_000)
        writer.write_eof()
        assert await reader.read() == b"CONNECT " + b"X" * 200_000
        writer.close()
        forwarder.close()


async def test_a_taken_port_is_replaced_by_another(egress: Path) -> None:
    async with shouting_proxy(egress), asyncio.timeout(20), asyncio.TaskGroup() as group:
        first = Forwarder(egress, group, port=0)
        taken = urlsplit(await first.proxy_url() or "").port
        assert taken is not None
        second = Forwarder(egress, group, port=taken)
        assert await second.proxy_url() not in (None, await first.proxy_url())
        first.close()
        second.close()


async def test_a_dead_egress_socket_closes_the_connection(egress: Path) -> None:
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        async with shouting_proxy(egress):
            forwarder = Forwarder(egress, group, port=0)
            address = urlsplit(await forwarder.proxy_url() or "")
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        assert await reader.read() == b""
        writer.close()
        forwarder.close()
