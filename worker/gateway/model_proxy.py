"""An agent's way to the model: its requests with the caller's key, the answers byte for byte.

Only `POST /v1/messages` and `/v1/messages/count_tokens` go out, only while a turn of the session is
open. What the agent sends as authentication is dropped. Bytes of an answer leave as they arrive.
Where a retry cannot help, the answer says so (`x-should-retry: false`). When either side leaves,
the other is cut off at once; an answer that broke upstream breaks here too, never ending as if it
were whole.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Self

import aiohttp
from aiohttp import web

from infra.runtime.logs import fields
from infra.wire.errors import AgClusterError
from infra.wire.gateway import UpstreamError
from infra.wire.ids import TurnId
from worker.gateway.headers import retry_after_s, to_agent, to_upstream
from worker.gateway.keys import KeyWiped
from worker.gateway.metering import CallMeter
from worker.gateway.sessions import Places, PlacesTaken, Session, Traffic, Turn, TurnOver
from worker.gateway.upstream import Upstream

log = logging.getLogger(__name__)

MESSAGES = "/v1/messages"
COUNT_TOKENS = "/v1/messages/count_tokens"
HELLO = "/api/hello"
UPSTREAM_BODY_MAX_BYTES = 32 * 1024 * 1024
"""What the Messages API itself accepts."""

_QUERIES = ("", "beta=true")


@dataclass(frozen=True)
class ModelLimits:
    """What one session may ask of the gateway."""

    body_max_bytes: int = UPSTREAM_BODY_MAX_BYTES
    calls_max: int = 32
    first_turn_s: float = 2.0
    """How long a call waits when its session has had no turn yet: after a restart of the gateway
    the CLI's retry may arrive between the worker's two commands."""
    agent_silence_s: float = 60.0
    """An agent that sends or reads nothing for this long in the middle of a call is cut off."""


class CallRefused(AgClusterError):
    """A request that is not answered by the upstream."""

    def __init__(
        self, status: int, kind: str, message: str, *, is_retry_pointless: bool = True
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.message = message
        self.is_retry_pointless = is_retry_pointless

    def as_response(self) -> web.Response:
        """The error in the Messages API's shape."""
        body = {"type": "error", "error": {"type": self.kind, "message": self.message}}
        retry = "false" if self.is_retry_pointless else "true"
        return web.json_response(body, status=self.status, headers={"x-should-retry": retry})


class BodyTooLarge(AgClusterError):
    """An agent's request is larger than may be."""


class StreamBroken(AgClusterError):
    """The upstream's answer ended before its end."""


class _AgentGone(AgClusterError):
    """The agent hung up, or reads nothing."""


class ModelProxy:
    """Answers the requests that come in on `model.sock`."""

    def __init__(self, upstream: Upstream, limits: ModelLimits, traffic: Traffic) -> None:
        self._upstream = upstream
        self._limits = limits
        self._traffic = traffic

    async def answer(
        self, session: Session, places: Places, request: web.BaseRequest
    ) -> web.StreamResponse:
        """One request of the session's agent."""
        try:
            if request.method in ("HEAD", "GET") and request.path == HELLO:
                return web.Response()
            _check_address(request)
            return await self._call(session, places, request)
        except CallRefused as refused:
            told = fields(
                conversation=session.conversation,
                method=request.method,
                status=refused.status,
                reason=refused.message,
            )
            log.info("model call refused", extra=told)
            return refused.as_response()

    async def _call(
        self, session: Session, places: Places, request: web.BaseRequest
    ) -> web.StreamResponse:
        response: web.StreamResponse | None = None
        try:
            await session.wait_first_turn(self._limits.first_turn_s)
            turn = session.running_turn()
            with places.take(), self._traffic.call():
                async with turn.while_open(), self._sent(turn, request) as answer:
                    response = begin_answer(answer)
                    await self._relay(turn, request, answer, response)
        except (TurnOver, KeyWiped) as error:
            if response is None or not response.prepared:
                message = f"No model call is possible now: {error}."
                raise CallRefused(403, "permission_error", message) from error
            break_off(request)
        except PlacesTaken as error:
            message = f"Too many model calls of this agent: {error}."
            raise CallRefused(429, "rate_limit_error", message, is_retry_pointless=False) from error
        except StreamBroken as error:
            told = fields(conversation=session.conversation, reason=error)
            log.warning("upstream broke a stream", extra=told)
            break_off(request)
        except _AgentGone as error:
            log.debug("agent left: %s", error)
            break_off(request)
        assert response is not None
        return response

    @asynccontextmanager
    async def _sent(
        self, turn: Turn, request: web.BaseRequest
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The upstream's answer, closed (its connection with it, unless read to the end)."""
        upload = _Upload(request, self._limits)
        headers = to_upstream(request.headers.items(), api_key=turn.key.reveal())
        if request.content_length is not None:
            headers["content-length"] = str(request.content_length)
        body = await _checked(upload, turn) if turn.models else upload
        try:
            answer = await self._upstream.send(request.raw_path, headers, body)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            # Errors in reading a body reach us as errors of the connection it was sent on.
            if upload.is_too_large:
                raise too_large(self._limits.body_max_bytes) from error
            turn.counter.fail(UpstreamError(status=502, kind="unreachable"))
            raise unreachable(turn.id, error) from error
        try:
            refuse_redirect(answer)
            yield answer
        finally:
            answer.close()

    async def _relay(
        self,
        turn: Turn,
        request: web.BaseRequest,
        answer: aiohttp.ClientResponse,
        response: web.StreamResponse,
    ) -> None:
        """Pass the answer on, counting."""
        meter = CallMeter(
            is_stream=answer.content_type == "text/event-stream",
            status=answer.status,
            retry_after_s=retry_after_s(answer.headers),
        )
        if _is_counted(request):
            with turn.counter.call(meter):
                await self._pump(request, answer, response, meter)
        else:
            await self._pump(request, answer, response, meter)

    async def _pump(
        self,
        request: web.BaseRequest,
        answer: aiohttp.ClientResponse,
        response: web.StreamResponse,
        meter: CallMeter,
    ) -> None:
        await response.prepare(request)
        while chunk := await read_on(answer, meter):
            meter.feed(chunk)
            await self._write(response, chunk)
        meter.end()

    async def _write(self, response: web.StreamResponse, chunk: bytes) -> None:
        try:
            async with asyncio.timeout(self._limits.agent_silence_s):
                await response.write(chunk)
        except (OSError, TimeoutError) as error:
            raise _AgentGone(type(error).__name__) from error


class _Upload:
    """The agent's request body as it comes in, bounded. Iterated once."""

    def __init__(self, request: web.BaseRequest, limits: ModelLimits) -> None:
        self._content = request.content
        self._limits = limits
        self._received = 0
        self.is_too_large = False
        if (request.content_length or 0) > limits.body_max_bytes:
            raise too_large(limits.body_max_bytes)

    # Not a generator: the HTTP client may drop it in the middle, and a running generator cannot be
    # closed.
    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """Raises `BodyTooLarge`, or `TimeoutError` when the agent falls silent."""
        async with asyncio.timeout(self._limits.agent_silence_s):
            chunk = await self._content.readany()
        if not chunk:
            raise StopAsyncIteration
        self._received += len(chunk)
        if self._received > self._limits.body_max_bytes:
            self.is_too_large = True
            raise BodyTooLarge(f"more than {self._limits.body_max_bytes} bytes")
        return chunk


def _check_address(request: web.BaseRequest) -> None:
    """Raises `CallRefused` for everything but the two calls an agent needs."""
    path, _, query = request.raw_path.partition("?")
    is_known = path in (MESSAGES, COUNT_TOKENS) and query in _QUERIES
    if request.method != "POST" or not is_known:
        raise CallRefused(403, "permission_error", "This path is not open to agents.")


def _is_counted(request: web.BaseRequest) -> bool:
    """Counting tokens costs none."""
    return request.path == MESSAGES


async def _checked(upload: _Upload, turn: Turn) -> BytesIO:
    """The whole body, when its model is one the turn may use."""
    try:
        raw = b"".join([chunk async for chunk in upload])
    except BodyTooLarge as error:
        raise CallRefused(413, "request_too_large", str(error)) from error
    try:
        model = json.loads(raw).get("model")
    except (ValueError, AttributeError) as error:
        raise CallRefused(400, "invalid_request_error", "The body is not a JSON object.") from error
    if model not in turn.models:
        message = f"The model {str(model)[:100]!r} is not open to this turn."
        raise CallRefused(403, "permission_error", message)
    return BytesIO(raw)


def too_large(body_max_bytes: int) -> CallRefused:
    """The answer to a request beyond the bound."""
    message = f"The request is larger than {body_max_bytes} bytes."
    return CallRefused(413, "request_too_large", message)


def unreachable(turn: TurnId, error: Exception) -> CallRefused:
    """No answer. A retry may help, unless it is the certificate."""
    is_final = isinstance(error, aiohttp.ClientSSLError | aiohttp.InvalidURL)
    log.warning("upstream unreachable", extra=fields(turn=turn, reason=type(error).__name__))
    what = "does not answer in time" if isinstance(error, TimeoutError) else "cannot be reached"
    return CallRefused(502, "api_error", f"The model's server {what}.", is_retry_pointless=is_final)


def refuse_redirect(answer: aiohttp.ClientResponse) -> None:
    """Following it would carry the key elsewhere. Raises `CallRefused`."""
    if 300 <= answer.status < 400:
        message = "The upstream answered with a redirect; check the upstream's URL."
        raise CallRefused(502, "api_error", message)


def begin_answer(answer: aiohttp.ClientResponse) -> web.StreamResponse:
    """The head of our answer, by the upstream's."""
    response = web.StreamResponse(
        status=answer.status,
        reason=answer.reason,
        headers=to_agent(answer.headers.items(), status=answer.status),
    )
    if answer.content_length is None:
        response.enable_chunked_encoding()
    return response


async def read_on(answer: aiohttp.ClientResponse, meter: CallMeter) -> bytes:
    """The next bytes; empty at the end. Raises `StreamBroken`."""
    try:
        return await answer.content.readany()
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        meter.broke()
        raise StreamBroken(type(error).__name__) from error


def break_off(request: web.BaseRequest) -> None:
    """Close the asker's connection: what was written still arrives, but no end of the answer."""
    if request.transport is not None:
        request.transport.close()
