"""One client connection: uvicorn's HTTP protocol, with the bounds that it lacks.

uvicorn waits without end for a request's head, and for a client that opens a connection and says
nothing; it takes a head, a chunk's extensions or trailers of any size; it never stops reading where
a request was answered before its body had come; and it adds a body's trailers to the headers. What
the parser itself refuses it answers in plain text, and HTTP/1.0 in chunks, which that does not
know. Here every such wait has a deadline, everything unparsed has a bound, trailers are dropped,
and each refusal has the form of all our errors.

(The body of a request that is being served is bounded by `api.http.edge`.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from api.errors import error_response
from infra.wire.errors import ErrorCode, RequestRefused
from infra.wire.words import Case, refused

HEAD_MAX_BYTES = 64 * 1024
"""Bytes that may come without making a whole head, or a piece of a body."""


class _PlainCycle(RequestResponseCycle):
    """An answer over HTTP/1.0, which knows no chunks: a body of unknown length ends with its
    connection."""

    _is_endless = False

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            names = {name.lower() for name, _ in message.get("headers", ())}
            self._is_endless = b"content-length" not in names
            if self._is_endless:
                self.chunked_encoding = False
        elif self._is_endless:
            # Each piece is as long as it was said to be.
            self.expected_content_length = len(message.get("body", b""))
        await super().send(message)


@dataclass(frozen=True)
class ConnectionBounds:
    """`head_s`: for a whole head, from its first byte or, on a new connection, from the start.
    `rest_s`: for the rest of a body nobody reads any more, so that its sender gets to the answer.
    `connections_max`: open ones of the process, idle ones included.
    """

    head_s: float = 10.0
    rest_s: float = 10.0
    connections_max: int = 8192


class BoundedConnection(HttpToolsProtocol):
    """See the module. `bounded` makes one with other bounds."""

    bounds: ClassVar[ConnectionBounds] = ConnectionBounds()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None
        self._is_in_head = False
        self._unparsed_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.bounds.connections_max:
            self._refuse(RequestRefused("", code=ErrorCode.REPLICA_FULL))
        else:
            self._expect(self.bounds.head_s, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_nothing()
        super().connection_lost(exc)

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
            # uvicorn's keep-alive timer ended with these bytes, and they began no request.
            self._expect(self.bounds.rest_s, self.transport.close)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_in_head = True
        self._expect_nothing()
        self._expect(self.bounds.head_s, self._head_is_late)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        self._unparsed_bytes = 0
        self._expect_nothing()
        super().on_headers_complete()

        if self.scope["http_version"] == "1.0" and self.cycle is not None:
            # There is no other seam; nothing of it has run yet.
            self.cycle.__class__ = _PlainCycle

    def on_body(self, body: bytes) -> None:
        self._unparsed_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unparsed_bytes = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(refused(Case.NOT_HTTP))

    @property
    def _is_idle(self) -> bool:
        """No request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def _head_is_late(self) -> None:
        if self._is_in_head:
            self._refuse(RequestRefused("", code=ErrorCode.REQUEST_TIMEOUT))
        else:
            self.transport.close()  # It said nothing, or never finished what was answered.

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
        """Answer what never became a request, if nothing else is being answered, and close."""
        if self._is_idle:
            answer = error_response(error)
            answer.headers["connection"] = "close"
            lines = (b"%b: %b\r\n" % header for header in answer.raw_headers)
            head = STATUS_LINE[answer.status_code] + b"".join(lines)
            self.transport.write(head + b"\r\n" + bytes(answer.body))
        self.transport.close()


def bounded(bounds: ConnectionBounds) -> type[BoundedConnection]:
    """The protocol with these bounds, as uvicorn wants it: a class."""
    return type("BoundedConnection", (BoundedConnection,), {"bounds": bounds})
