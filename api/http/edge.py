"""The outermost layer: request ids, limits on what a client may send, headers of every answer, and
a catch-all for errors. (`api.http.connection` limits what is not a request yet.)

Plain ASGI, because it wraps every stream, and Starlette's middleware class would copy each chunk
through a queue.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Mapping
from copy import copy
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import error_response
from api.http.auth import without_key
from api.http.files_host import LINKS_AT
from api.http.held_bodies import Held, HeldBodies
from infra.metrics.api import OPEN_REQUESTS, count_request
from infra.runtime.logs import fields
from infra.wire.errors import AgClusterError, ErrorCode, RequestRefused
from infra.wire.ids import TenantId
from infra.wire.text.words import Case, refused

log = logging.getLogger(__name__)

HEADERS_MAX_BYTES = 32 * 1024
HEADERS_MAX = 128
BODY_STALL_S = 20.0
"""Seconds that a body may take, plus one for every 64 KiB that has arrived."""
BODY_BYTES_PER_S = 64 * 1024
PROGRESS_BYTES = 16 * 1024
"""An upload that sends fewer bytes than this in the time of a stall is given up."""
FORM_BYTES = 64 * 1024
"""What the rest of an upload's form may take beside its file."""
ANSWER_HEADERS = "answer_headers"
"""Where in a request's state a route puts headers for its answer, even if that is an error."""
BEGAN = "began_s"
"""Where in a request's state is when it began, by `time.perf_counter`."""
ROUTE = "route"
"""Where a request's scope has the route that serves it; its `path` is a pattern."""
BODY = "body"
"""Where in a request's state its `BoundedBody` is."""
_SECURITY_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
"""Default headers of answers. None of them is a page, so a browser must not run anything in
them."""
_PATH_SIGNS = "/!$&'()*+,:;=@[]"
_UPLOADS = re.compile(r"/(?:v1/)?(?:files|uploads/[^/]+/parts)")
"""Whose bodies are files."""
_PREFIX = re.compile(r"/*((?:v1/+)*)")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:@=+/-]{1,128}")


class Edge:
    """Wraps the application. Beyond `requests_max` concurrent requests, only health is answered.

    The bytes of all requests' bodies, and of the data made from them, count as held until their
    turns are submitted. Beyond `bodies_max_bytes`, any request that sends more is refused, and
    before that a key that holds more than is left for all others.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_body_bytes: int,
        requests_max: int,
        bodies_max_bytes: int,
        file_max_bytes: int,
        body_stall_s: float = BODY_STALL_S,
    ) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._file_max_bytes = file_max_bytes
        self._requests_max = requests_max
        self._body_stall_s = body_stall_s
        self._held = HeldBodies(bodies_max_bytes)
        self._open: set[_Exchange] = set()

    def around(self, app: ASGIApp) -> Edge:
        """The same edge around another application: they share limits and counts."""
        other = copy(self)
        other._app = app
        return other

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state[ANSWER_HEADERS] = {}
        exchange = _Exchange(scope, send, state[ANSWER_HEADERS])
        meant = meant_path(scope["path"], scope["raw_path"])
        body = self._body(scope["method"], meant, receive)
        state[BODY] = body
        state[BEGAN] = exchange.began_s
        self._open.add(exchange)
        OPEN_REQUESTS.inc()
        try:
            self._check(scope, body)
            scope["path"] = meant
            await self._app(scope, body, exchange.send)
        except ClientDisconnect:
            pass  # The client is gone.
        except AgClusterError as error:
            if exchange.status:
                raise
            await error_response(error)(scope, receive, exchange.send)
        except Exception:  # The process must survive any request.
            log.exception("request failed", extra=fields(request=exchange.request_id))
            if exchange.status:
                raise
            await error_response(AgClusterError())(scope, receive, exchange.send)
        finally:
            self._open.remove(exchange)
            OPEN_REQUESTS.dec()
            body.release()
            exchange.over(scope)

    def _body(self, method: str, path: str, receive: Receive) -> BoundedBody:
        held = self._held.request()
        if method == "POST" and _UPLOADS.fullmatch(path):
            return PassingBody(receive, self._file_max_bytes, self._body_stall_s, held)
        return BoundedBody(receive, self._max_body_bytes, self._body_stall_s, held)

    def _check(self, scope: Scope, body: BoundedBody) -> None:
        if len(self._open) > self._requests_max and not _is_probe(scope):
            raise RequestRefused("", code=ErrorCode.REPLICA_FULL)
        fields_sent = scope["headers"]
        size = sum(len(name) + len(value) for name, value in fields_sent)
        if size > HEADERS_MAX_BYTES or len(fields_sent) > HEADERS_MAX:
            raise RequestRefused(
                f"The request has more than {HEADERS_MAX} headers, or they are larger than "
                f"{HEADERS_MAX_BYTES // 1024} KiB.",
                code=ErrorCode.HEADERS_TOO_LARGE,
            )
        length = Headers(raw=fields_sent).get("content-length", "0")
        if length.isdigit():
            body.announce(int(length))


class _Exchange:
    """One request and its answer: adds the headers, remembers the status."""

    def __init__(self, scope: Scope, send: Send, more: Mapping[str, str]) -> None:
        headers = Headers(raw=scope["headers"])
        self.request_id = request_id(headers)
        # The request itself may be forgotten before its answer is complete.
        self._method = scope["method"]
        self._path = None if _is_probe(scope) else _loggable(scope, headers)
        self.status = 0
        self._send = send
        self._more = more
        self.began_s = time.perf_counter()
        self._took = 0.0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._took = time.perf_counter() - self.began_s
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self.request_id
            headers.update(self._more)
            for name, value in _SECURITY_HEADERS.items():
                headers.setdefault(name, value)
        await self._send(message)

    def over(self, scope: Scope) -> None:
        """Count and log it."""
        count_request(
            route=getattr(scope.get(ROUTE), "path", None),
            method=self._method,
            status=self.status,
            after_s=self._took,
        )
        if self._path is None:
            return  # Probes arrive every few seconds and are not worth a log line.
        log.info(
            "answered",
            extra=fields(
                method=self._method,
                path=self._path,
                status=self.status or None,
                after_ms=round(self._took * 1000, 1),
                open_s=round(time.perf_counter() - self.began_s, 2),
                request=self.request_id,
            ),
        )


class BoundedBody:
    """The request's `receive`, with limits on size and slowness while the body arrives.

    Received bytes count as held until the route says what it holds, or the request is over.
    """

    def __init__(self, receive: Receive, max_bytes: int, stall_s: float, held: Held) -> None:
        self._receive = receive
        self._max_bytes = max_bytes
        self._stall_s = stall_s
        self._held = held
        self._received = 0
        self._began = time.monotonic()
        self._is_complete = False

    def announce(self, length: int) -> None:
        """So many bytes are to come. Raises `RequestRefused` if they are too many."""
        if length > self._max_bytes:
            raise self._too_large()

    async def __call__(self) -> Message:
        if self._is_complete:
            return await self._receive()
        try:
            async with asyncio.timeout(self._left_s()):
                message = await self._receive()
        except TimeoutError:
            raise RequestRefused("", code=ErrorCode.REQUEST_TIMEOUT) from None
        if message["type"] == "http.request":
            size = len(message.get("body", b""))
            self._received += size
            if self._received > self._max_bytes:
                raise self._too_large()
            self._arrived(size)
            self._is_complete = not message.get("more_body", False)
        return message

    def _left_s(self) -> float:
        """Seconds that the next piece may take."""
        allowed_s = self._stall_s + self._received / BODY_BYTES_PER_S
        return self._began + allowed_s - time.monotonic()

    def _arrived(self, size: int) -> None:
        self._held.add(size)

    def _too_large(self) -> RequestRefused:
        return RequestRefused(
            f"The request body is larger than {self._max_bytes} bytes.",
            code=ErrorCode.BODY_TOO_LARGE,
        )

    def belong(self, tenant: TenantId) -> None:
        """Sets whose request it is, because each key has a share of the memory. Called before the
        body is read."""
        self._held.belong(tenant)

    def hold(self, count: int) -> None:
        """From here on the request holds this many bytes, in any form.

        Raises `RequestRefused` if there is no room for them beside what others hold, or what other
        requests of the same key hold.
        """
        self._held.become(count)

    def release(self) -> None:
        """The body is no longer held."""
        self.hold(0)


class PassingBody(BoundedBody):
    """The body of an upload, which goes on to the file store as it arrives.

    Of its bytes only those count as held that the route says. It may take any time, as long as it
    moves: we wait at most `stall_s` for the next `PROGRESS_BYTES`. The time in which nobody asks
    for more does not count, because then the file store is slow, not the sender.
    """

    def __init__(self, receive: Receive, max_bytes: int, stall_s: float, held: Held) -> None:
        super().__init__(receive, max_bytes + FORM_BYTES, stall_s, held)
        self._file_max_bytes = max_bytes
        self._waited_s = 0.0
        self._fresh = 0
        self._asked = time.monotonic()

    def _left_s(self) -> float:
        self._asked = time.monotonic()
        return self._stall_s - self._waited_s

    def _arrived(self, size: int) -> None:
        self._fresh += size
        if self._fresh >= PROGRESS_BYTES:
            self._fresh, self._waited_s = 0, 0.0
        else:
            self._waited_s += time.monotonic() - self._asked

    def _too_large(self) -> RequestRefused:
        return refused(Case.FILE_TOO_LARGE, bytes=self._file_max_bytes)


def meant_path(path: str, raw_path: bytes) -> str:
    """Our path for the forms that clients build from a base URL: `//v1/…`, `/v1/v1/…`, `…/`.

    Served directly, not redirected, because clients drop their key or their body when redirected.
    """
    prefix = _PREFIX.match(path)
    assert prefix is not None
    path = ("/v1/" if prefix[1] else "/") + path[prefix.end() :]
    if raw_path.endswith(b"/"):  # Not an escaped slash, which is part of a name.
        path = path.rstrip("/") or "/"
    return path


def held_body(request: Request) -> BoundedBody:
    """The bytes held by a request that came in through the edge."""
    body = request.scope["state"][BODY]
    assert isinstance(body, BoundedBody)
    return body


def forget_headers(request: Request) -> None:
    """The answer needs none of them: an open stream should hold neither kilobytes nor a key."""
    request.scope["headers"] = []


def _loggable(scope: Scope, headers: Headers) -> str:
    """The path as it was sent, because a decoded one could contain a line break. A key in it is
    masked, and so is a link to a file, which opens it without a key."""
    path: str = scope["path"]
    if path.startswith(f"{LINKS_AT}/"):
        return f"{LINKS_AT}/…"
    shown = without_key(path, headers)
    if shown != path:
        return quote(shown, safe=_PATH_SIGNS)[:100]
    raw: bytes = scope["raw_path"]
    return raw[:100].decode("ascii", "replace")


def _is_probe(scope: Scope) -> bool:
    path: str = scope["path"]
    return path.startswith("/health")


def request_id(headers: Headers) -> str:
    """The client's own id if it is a valid one, otherwise a new one."""
    sent = headers.get("x-request-id", "")
    is_decent = _REQUEST_ID.fullmatch(sent) and without_key(sent, headers) == sent
    return sent if is_decent else f"req_{secrets.token_hex(12)}"
