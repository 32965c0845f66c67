"""One client connection: uvicorn's HTTP protocol, with the limits that it lacks.

uvicorn waits forever for a request's head, and for a client that opens a connection and sends
nothing. It accepts a head, chunk extensions or trailers of any size. It never stops reading if a
request was answered before its body had arrived, and it adds a body's trailers to the headers. It
answers what the parser refuses in plain text, and HTTP/1.0 in chunks, which HTTP/1.0 does not
support. Here every such wait has a deadline, everything unparsed has a limit, trailers are dropped,
and every refusal has the form of our errors. It also offers each request what ASGI lacks
(`api.http.client`).

(`api.http.edge` limits the body of a request that is being served.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from api.errors import error_response
from api.http.client import offered
from infra.wire.errors import ErrorCode, RequestRefused
from infra.wire.text.words import Case, refused

HEAD_MAX_BYTES = 64 * 1024
"""Bytes that may arrive without completing a head or a piece of a body."""


class _Cycle(RequestResponseCycle):
    """One request and its answer, which may also be pushed (`api.http.client.ClientConnection`)."""

    _tell_departure: Callable[[], None] | None = None

    @property
    def is_clogged(self) -> bool:
        return self.flow.write_paused

    def push(self, body: bytes) -> bool:
        is_open = self.response_started and not self.response_complete and not self.disconnected
        if not is_open or not self.chunked_encoding:
            return False
        if self.flow.write_paused or self.transport.is_closing():
            return False
        self.transport.write(b"%x\r\n%b\r\n" % (len(body), body))
        return True

    def on_departure(self, tell: Callable[[], None] | None) -> bool:
        if self.more_body:
            return False
        self._tell_departure = tell
        if self.disconnected:
            self.depart()
        else:
            self.flow.resume_reading()  # Or the end of the connection would not be read.
        return True

    def depart(self) -> None:
        """The client has disconnected."""
        tell, self._tell_departure = self._tell_departure, None
        if tell is not None:
            tell()


class _PlainCycle(_Cycle):
    """An answer over HTTP/1.0, which does not support chunks: a body of unknown length ends with
    its connection."""

    _is_endless = False

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            names = {name.lower() for name, _ in message.get("headers", ())}
            self._is_endless = b"content-length" not in names
            if self._is_endless:
                self.chunked_encoding = False
        elif self._is_endless:
            # Each piece has its announced length.
            self.expected_content_length = len(message.get("body", b""))
        await super().send(message)


class _Flow(FlowControl):
    """uvicorn's, without an event for connections that never clog (nearly a kilobyte each)."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.read_paused = False
        self.write_paused = False
        self._until_writable: asyncio.Event | None = None

    async def drain(self) -> None:
        if self.write_paused:
            self._until_writable = self._until_writable or asyncio.Event()
            await self._until_writable.wait()

    def pause_writing(self) -> None:
        self.write_paused = True

    def resume_writing(self) -> None:
        self.write_paused = False
        if self._until_writable is not None:
            self._until_writable.set()
            self._until_writable = None


class _Signal:
    """asyncio's `Event` for one waiter, without a queue of them."""

    __slots__ = ("_is_set", "_waiter")

    def __init__(self) -> None:
        self._is_set = False
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        self._is_set = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def clear(self) -> None:
        self._is_set = False

    async def wait(self) -> None:
        if self._is_set:
            return
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None


class _Pipeline(list[Any]):
    """The requests that a client sent before its answers came: nearly always none, for which
    uvicorn's deque takes 700 bytes."""

    __slots__ = ()

    def appendleft(self, request: Any) -> None:
        self.insert(0, request)


@dataclass(frozen=True)
class ConnectionBounds:
    """`head_s`: for a complete head, from its first byte or, on a new connection, from the start.
    `rest_s`: for the rest of a body that nobody reads any longer, so that its sender gets to the
    answer. `connections_max`: open connections of the process, including idle ones."""

    head_s: float = 10.0
    rest_s: float = 10.0
    connections_max: int = 8192


class BoundedConnection(HttpToolsProtocol):
    """See the module. `bounded` creates a subclass with other limits."""

    bounds: ClassVar[ConnectionBounds] = ConnectionBounds()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Not more attributes: an object with over thirty has a large dictionary of its own.
        self._deadline: asyncio.TimerHandle | None = None
        self._unparsed_bytes = 0
        self.pipeline = _Pipeline()  # type: ignore[assignment]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = _Flow(transport)
        if len(self.connections) > self.bounds.connections_max:
            self._refuse(RequestRefused("", code=ErrorCode.REPLICA_FULL))
        else:
            self._expect(self.bounds.head_s, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_nothing()
        super().connection_lost(exc)
        if isinstance(self.cycle, _Cycle):
            self.cycle.depart()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._unparsed_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._unparsed_bytes > HEAD_MAX_BYTES:
            self._refuse(RequestRefused("", code=ErrorCode.HEADERS_TOO_LARGE))
        elif self._deadline is None and self._is_idle:
            # These bytes stopped uvicorn's keep-alive timer, but did not start a request.
            self._expect(self.bounds.rest_s, self.transport.close)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect_nothing()
        self._expect(self.bounds.head_s, self._head_is_late)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._unparsed_bytes = 0
        self._expect_nothing()
        super().on_headers_complete()
        self.headers = []  # The scope has them, until they are not needed any more.

        if self.cycle is not None:
            # There is no other way to replace it; nothing of it has run yet.
            is_plain = self.scope["http_version"] == "1.0"
            self.cycle.__class__ = _PlainCycle if is_plain else _Cycle
            assert isinstance(self.cycle, _Cycle)
            self.cycle.message_event = _Signal()  # type: ignore[assignment]
            self.scope["extensions"] = offered(self.cycle)

    def on_body(self, body: bytes) -> None:
        self._unparsed_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unparsed_bytes = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(refused(Case.NOT_HTTP))

    @property
    def _is_in_head(self) -> bool:
        """Whether a request has begun whose headers are not complete."""
        return self.scope is not None and "method" not in self.scope

    @property
    def _is_idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def _head_is_late(self) -> None:
        if self._is_in_head:
            self._refuse(RequestRefused("", code=ErrorCode.REQUEST_TIMEOUT))
        else:
            self.transport.close()  # It sent nothing, or not the rest of its body.

    def _expect(self, within_s: float, late: Callable[[], None]) -> None:
        self._deadline = self.loop.call_later(within_s, self._ring, late)

    def _expect_nothing(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _ring(self, late: Callable[[], None]) -> None:
        self._deadline = None
        if not self.transport.is_closing():
            late()

    def _refuse(self, error: RequestRefused) -> None:
        """Answer bytes that never became a request, if nothing else is being answered, and
        close."""
        if self._is_idle:
            answer = error_response(error)
            answer.headers["connection"] = "close"
            lines = (b"%b: %b\r\n" % header for header in answer.raw_headers)
            head = STATUS_LINE[answer.status_code] + b"".join(lines)
            self.transport.write(head + b"\r\n" + bytes(answer.body))
        self.transport.close()


def bounded(bounds: ConnectionBounds) -> type[BoundedConnection]:
    """The protocol with these limits, as a class, which is what uvicorn needs."""
    return type("BoundedConnection", (BoundedConnection,), {"bounds": bounds})
