"""What is pushed past ASGI reaches the client as a part of the same body, or is refused."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from api.http.client import ClientConnection, connection_of
from api.http.connection import ConnectionBounds, bounded
from tests.fakes.running_api import until

Answer = Callable[[ClientConnection, Send], Awaitable[None]]
START = {"type": "http.response.start", "status": 200, "headers": []}


def part(body: bytes, *, more: bool = True) -> dict[str, object]:
    return {"type": "http.response.body", "body": body, "more_body": more}


@asynccontextmanager
async def served(answer: Answer) -> AsyncIterator[tuple[str, int]]:
    """A server whose every answer is this one, over our connections."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        connection = connection_of(scope)
        assert connection is not None
        await answer(connection, send)

    config = uvicorn.Config(
        app, http=bounded(ConnectionBounds()), lifespan="off", log_config=None, ws="none"
    )
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        await server.startup(sockets=[listener])
        try:
            yield listener.getsockname()
        finally:
            await server.shutdown(sockets=[listener])


async def read_slowly(address: tuple[str, int], until_read: asyncio.Event) -> bytes:
    """What a client gets that reads nothing for a while."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, address)
        await loop.sock_sendall(client, b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        await until_read.wait()
        raw = b""
        while piece := await loop.sock_recv(client, 65536):
            raw += piece
    return raw


async def test_what_is_pushed_and_what_is_sent_are_one_body_in_order() -> None:
    refused: list[bool] = []

    async def answer(connection: ClientConnection, send: Send) -> None:
        refused.append(connection.push(b"before the head"))
        await send(START)
        await send(part(b"one "))
        assert connection.push(b"two ")
        assert connection.push(b"three ")
        await send(part(b"four ", more=True))
        assert connection.push(b"five ")
        await send(part(b"six", more=False))
        refused.append(connection.push(b"after the end"))

    async with served(answer) as (host, port), httpx.AsyncClient() as http:
        for _ in range(2):  # On one connection: nothing is left over for the next answer.
            got = await http.get(f"http://{host}:{port}/")
            assert got.text == "one two three four five six"
    assert refused == [False] * 4


@pytest.mark.parametrize(
    ("version", "length"), [(b"1.0", []), (b"1.1", [(b"content-length", b"7")])]
)
async def test_nothing_is_pushed_into_a_body_that_is_not_sent_in_chunks(
    version: bytes, length: list[tuple[bytes, bytes]]
) -> None:
    async def answer(connection: ClientConnection, send: Send) -> None:
        await send(START | {"headers": length})
        await send(part(b"one "))
        if not connection.push(b"two"):
            await send(part(b"2nd"))
        await send(part(b"", more=False))

    async with served(answer) as address, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"GET / HTTP/%b\r\nhost: x\r\nconnection: close\r\n\r\n" % version)
        raw = await reader.read()
        writer.close()
    assert raw.endswith(b"\r\n\r\none 2nd")


async def test_a_clogged_connection_takes_no_push_until_its_client_has_read() -> None:
    clogged, has_read = asyncio.Event(), asyncio.Event()
    pushed = 0
    was_clogged: list[bool] = []
    piece = b"x" * 30_000

    async def answer(connection: ClientConnection, send: Send) -> None:
        nonlocal pushed
        await send(START)
        await send(part(b"<"))
        while connection.push(piece):
            pushed += 1
            await asyncio.sleep(0)
        was_clogged.append(connection.is_clogged)
        clogged.set()
        await send(part(b"|"))  # Waits until there is room.
        assert has_read.is_set()
        was_clogged.append(connection.is_clogged)
        assert connection.push(b">")
        await send(part(b"", more=False))

    async with served(answer) as address, asyncio.timeout(20), asyncio.TaskGroup() as group:
        reading = group.create_task(read_slowly(address, has_read))
        await clogged.wait()
        assert pushed < 1000, "the kernel's buffers and ours are bounded"
        has_read.set()
    raw = reading.result()
    assert was_clogged == [True, False]
    assert raw.count(b"x") == pushed * len(piece)
    assert raw.endswith(b"1\r\n|\r\n1\r\n>\r\n0\r\n\r\n")


async def test_a_connection_tells_once_that_its_client_left() -> None:
    begun, told = asyncio.Event(), asyncio.Queue[str]()

    async def answer(connection: ClientConnection, send: Send) -> None:
        await send(START)
        assert connection.on_departure(lambda: told.put_nowait("first"))
        assert connection.on_departure(lambda: told.put_nowait("second"))
        begun.set()
        await told.get()
        assert connection.on_departure(lambda: told.put_nowait("at once"))
        told.put_nowait(await told.get())

    async with served(answer) as address, asyncio.timeout(20):
        _, writer = await asyncio.open_connection(*address)
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        await begun.wait()
        writer.transport.abort()
        await until(lambda: told.qsize() == 1)
    assert told.get_nowait() == "at once"


async def test_a_connection_does_not_tell_while_a_body_is_owed() -> None:
    """Its rest has to be read, and that is ASGI's `receive`."""
    answers: list[bool] = []

    async def answer(connection: ClientConnection, send: Send) -> None:
        answers.append(connection.on_departure(lambda: None))
        await send(START)
        await send(part(b"", more=False))

    async with served(answer) as address, asyncio.timeout(20):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\na")
        await reader.readuntil(b"0\r\n\r\n")
        writer.close()
    assert answers == [False]


async def test_requests_that_are_sent_at_once_are_answered_one_after_the_other() -> None:
    begun: list[int] = []

    async def answer(connection: ClientConnection, send: Send) -> None:
        begun.append(len(begun))
        number = b"%d" % begun[-1]
        await send(START)
        await send(part(b"begin " + number))
        await asyncio.sleep(0.01)
        assert connection.push(b" end " + number)
        await send(part(b"", more=False))

    async with served(answer) as address, asyncio.timeout(20):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" * 3)
        raw = b""
        for _ in range(3):
            raw += await reader.readuntil(b"0\r\n\r\n")
        writer.close()
    said = [line for line in raw.split(b"\r\n") if line.startswith((b"begin", b" end"))]
    assert said == [b"begin 0", b" end 0", b"begin 1", b" end 1", b"begin 2", b" end 2"]


async def test_a_client_that_is_gone_takes_no_push() -> None:
    begun, is_refused = asyncio.Event(), asyncio.Event()

    async def answer(connection: ClientConnection, send: Send) -> None:
        await send(START)
        begun.set()
        await until(lambda: not connection.push(b"x"))
        is_refused.set()

    async with served(answer) as address, asyncio.timeout(20):
        _, writer = await asyncio.open_connection(*address)
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        await begun.wait()
        writer.transport.abort()
        await is_refused.wait()
