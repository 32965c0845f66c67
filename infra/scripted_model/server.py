"""The scripted model as a web application: the part of the Messages API that agents use.

    POST /v1/messages, /v1/messages/count_tokens
    GET  /v1/models, /v1/models/{id}
    HEAD /api/hello
    GET  /_script/log, /_script/last       what was asked; DELETE /_script/log forgets it

Every key is good unless it is missing or, outside a demo, begins with one of `BAD_KEYS`: those get
401, like the scripted errors in the real API's shape. Breaks after some deltas concern streams
only: asked for a whole message, as the CLI does when its streams broke, the model gives it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Send

from infra.scripted_model.asked import Asked, find_prompt
from infra.scripted_model.demo.showcase import showcase
from infra.scripted_model.journal import Entry, Journal
from infra.scripted_model.messages import (
    Writer,
    error_body,
    error_object,
    event,
    new_id,
    text_delta,
)
from infra.scripted_model.replies import Cut, CutKind, Refusal, Reply
from infra.scripted_model.script import answer

BAD_KEYS = ("sk-ant-wrong", "bad")
MODELS = (
    "claude-opus-4-5-20251101",
    "claude-sonnet-4-5-20250929",
    "claude-haiku-4-5-20251001",
    "claude-opus-4-1-20250805",
)
HANG_S = 3600.0
_ARRIVAL_S = 0.2
_KEY_HEADERS = ("x-api-key", "authorization", "cookie")
_BATCH = 32
"""Deltas that are not paced leave in groups of this size; the first one leaves alone."""


class BrokenOff(Exception):
    """Breaks a connection on purpose. The server's runner keeps it out of its log."""


@dataclass(frozen=True)
class Options:
    """How the model behaves as a whole."""

    is_demo: bool = False
    latency_s: float = 0.0
    """Passes before every answer of /v1/messages."""


def make_app(journal: Journal, options: Options | None = None) -> Starlette:
    """The application. It keeps nothing but its journal."""
    model = ScriptedModel(journal, options or Options())
    return Starlette(
        routes=[
            Route("/v1/messages", model.messages, methods=["POST"]),
            Route("/v1/messages/count_tokens", model.count_tokens, methods=["POST"]),
            Route("/v1/models", model.models, methods=["GET"]),
            Route("/v1/models/{id:path}", model.model, methods=["GET"]),
            Route("/api/hello", model.hello, methods=["GET", "HEAD"]),
            # A sign of life, which a gateway asks for by itself. It is not in the journal.
            Route("/", _alive, methods=["HEAD"]),
            Route("/_script/log", model.log, methods=["GET", "DELETE"]),
            Route("/_script/last", model.last, methods=["GET"]),
            Route("/{path:path}", model.elsewhere),
        ],
        exception_handlers={HTTPException: _http_error},
    )


async def _alive(_: Request) -> Response:
    return Response()


class ScriptedModel:
    """The endpoints."""

    def __init__(self, journal: Journal, options: Options) -> None:
        self._journal = journal
        self._options = options

    async def messages(self, request: Request) -> Response:
        """One message of the model, streamed or whole."""
        raw = await request.body()
        body = _object(raw)
        entry = self._note(request, **_facts(body, len(raw)))
        if refused := self._refused_key(request, entry):
            return refused
        self._journal.last_body = body
        reply = answer(
            Asked(body, request.headers, lambda: self._journal.attempt(body.get("messages"))),
            otherwise=showcase if self._options.is_demo else None,
        )
        if isinstance(reply, Refusal):
            return self._refuse(entry, reply.status, headers=reply.headers, error=reply.error)
        if not await self._waited(request, entry, reply):
            return Response(status_code=499)
        writer = Writer(reply, model=str(body.get("model")), input_tokens=_tokens(raw))
        headers = {"request-id": new_id("req")}
        if body.get("stream"):
            return EventStream(self._stream(writer, reply, entry), headers=headers)
        entry.billed = writer.billed()
        self._journal.end(entry, "done")
        return JSONResponse(writer.whole(), headers=headers)

    async def count_tokens(self, request: Request) -> Response:
        """A guess from the body's size."""
        raw = await request.body()
        entry = self._note(request, model=_object(raw).get("model"), bytes=len(raw))
        if refused := self._refused_key(request, entry):
            return refused
        self._journal.end(entry, "done")
        return JSONResponse({"input_tokens": _tokens(raw)})

    async def models(self, request: Request) -> Response:
        """The list that tells whether a key is good."""
        entry = self._note(request)
        if refused := self._refused_key(request, entry):
            return refused
        self._journal.end(entry, "done")
        listed = [_model_object(id) for id in MODELS]
        return JSONResponse(
            {"data": listed, "has_more": False, "first_id": MODELS[0], "last_id": MODELS[-1]}
        )

    async def model(self, request: Request) -> Response:
        """One model; anything that begins with `claude-` exists."""
        id = request.path_params["id"]
        entry = self._note(request)
        if refused := self._refused_key(request, entry):
            return refused
        if not id.startswith("claude-"):
            return self._refuse(entry, 404)
        self._journal.end(entry, "done")
        return JSONResponse(_model_object(id))

    async def hello(self, request: Request) -> Response:
        """The CLI asks this before its first message."""
        self._journal.end(self._note(request), "done")
        return Response()

    async def log(self, request: Request) -> Response:
        """The journal."""
        if request.method == "DELETE":
            self._journal.clear()
            return Response(status_code=204)
        return JSONResponse([entry.as_json() for entry in self._journal.entries])

    async def last(self, request: Request) -> Response:
        """The body of the newest message asked for."""
        return JSONResponse(dict(self._journal.last_body))

    async def elsewhere(self, request: Request) -> Response:
        """404, noted."""
        return self._refuse(self._note(request), 404, message="no such path")

    def _note(self, request: Request, **facts: Any) -> Entry:
        entry = Entry(
            n=0,
            unix_s=time.time(),
            method=request.method,
            path=request.url.path,
            query=request.url.query,
            headers=self._noted_headers(request.headers),
            facts=facts,
        )
        self._journal.add(entry)
        return entry

    def _noted_headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        """All of them for tests; a demo's keys may be real ones and are not kept."""
        noted = dict(headers)
        if self._options.is_demo:
            noted |= {name: "[key]" for name in _KEY_HEADERS if name in noted}
        return noted

    def _refused_key(self, request: Request, entry: Entry) -> Response | None:
        key = _key(request.headers)
        if not key:
            return self._refuse(entry, 401, message="x-api-key header is required")
        is_bad = not self._options.is_demo and key.startswith(BAD_KEYS)
        return self._refuse(entry, 401) if is_bad else None

    def _refuse(
        self,
        entry: Entry,
        status: int,
        *,
        headers: Mapping[str, str] | None = None,
        message: str | None = None,
        error: Mapping[str, Any] | None = None,
    ) -> Response:
        self._journal.end(entry, "refused")
        id = new_id("req")
        body = error_body(status, id, message=message)
        if error is not None:
            body["error"] = dict(error)
        return JSONResponse(body, status, headers={"request-id": id, **(headers or {})})

    async def _waited(self, request: Request, entry: Entry, reply: Reply) -> bool:
        """Wait as long as the reply asks for; false when the client hung up meanwhile."""
        wait_s = self._options.latency_s + reply.wait_s
        if reply.cut == Cut(CutKind.HANG, after=0):
            wait_s = HANG_S
        if wait_s and await _hung_up_within(request, wait_s):
            self._journal.end(entry, "aborted")
            return False
        return True

    async def _stream(
        self, writer: Writer, reply: Reply, entry: Entry
    ) -> AsyncGenerator[bytes, None]:
        how = "aborted"
        try:
            async with aclosing(_chunks(writer, reply, entry)) as chunks:
                async for chunk in chunks:
                    yield chunk
            how = "done" if reply.cut is None else "cut"
        except BrokenOff:
            how = "cut"
            raise
        finally:
            self._journal.end(entry, how)


class EventStream(StreamingResponse):
    """A stream that is closed at once when its reader leaves, not when it is collected."""

    def __init__(self, events: AsyncGenerator[bytes, None], *, headers: Mapping[str, str]) -> None:
        super().__init__(
            events,
            media_type="text/event-stream; charset=utf-8",
            headers={"cache-control": "no-cache", **headers},
        )
        self._events = events

    async def stream_response(self, send: Send) -> None:
        try:
            await super().stream_response(send)
        finally:
            await self._events.aclose()


async def _chunks(writer: Writer, reply: Reply, entry: Entry) -> AsyncGenerator[bytes, None]:
    """The stream's bytes as they are to leave, broken off where the script says so."""
    held = bytearray()
    entry.billed = writer.billed(0)
    sent = blocks = 0
    due = time.monotonic()
    for data, is_delta, is_block_end in writer.parts():
        if reply.cut and reply.cut.is_due(deltas=sent, blocks=blocks, before_delta=is_delta):
            yield bytes(held)
            yield await _break_off(reply.cut)
            return
        blocks += is_block_end
        if is_delta:
            if reply.pace_s:
                yield bytes(held)
                held.clear()
                due += reply.pace_s
                await asyncio.sleep(max(0.0, due - time.monotonic()))
            held += (
                text_delta(0, f"{reply.first + sent}@{time.time_ns()} ") if reply.stamped else data
            )
            sent += 1
            entry.billed = writer.billed(sent)
        else:
            held += data
        if sent % _BATCH == 1 and is_delta:
            yield bytes(held)
            held.clear()
            await asyncio.sleep(0)
    entry.billed = writer.billed()
    yield bytes(held)


async def _break_off(cut: Cut) -> bytes:
    """What a broken stream still says. Raises `BrokenOff` where it says nothing."""
    if cut.kind is CutKind.ERROR:
        return event("error", error=error_object(cut.status))
    if cut.kind is CutKind.UNSAID:
        return event("message_stop")
    if cut.kind is CutKind.HANG:
        await asyncio.sleep(HANG_S)
    # What was said before is to arrive: a connection that breaks may take it along.
    await asyncio.sleep(_ARRIVAL_S)
    raise BrokenOff


async def _hung_up_within(request: Request, seconds: float) -> bool:
    """Whether the client leaves in that time; its body must have been read."""
    try:
        async with asyncio.timeout(seconds):
            while (await request.receive())["type"] != "http.disconnect":
                continue
    except TimeoutError:
        return False
    return True


def _object(raw: bytes) -> dict[str, Any]:
    """The body of a request. Raises 400 for anything but an object with messages."""
    try:
        body = json.loads(raw)
    except ValueError:
        raise HTTPException(400, "the request body is not valid JSON") from None
    if not isinstance(body, dict) or not isinstance(body.get("messages"), list):
        raise HTTPException(400, "messages: Field required")
    return body


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    body = error_body(error.status_code, new_id("req"), message=error.detail)
    return JSONResponse(body, error.status_code)


def _key(headers: Mapping[str, str]) -> str:
    bearer = headers.get("authorization", "")
    return headers.get("x-api-key") or bearer.removeprefix("Bearer ").strip()


def _tokens(raw: bytes) -> int:
    return max(1, len(raw) // 4)


def _facts(body: Mapping[str, Any], size: int) -> dict[str, Any]:
    prompt = find_prompt(body["messages"])
    return {
        "model": body.get("model"),
        "stream": bool(body.get("stream")),
        "bytes": size,
        "messages": len(body["messages"]),
        "tools": len(body.get("tools") or ()),
        "max_tokens": body.get("max_tokens"),
        "thinking": body.get("thinking"),
        "step": prompt.answered,
        "prompt": prompt.text[:200],
    }


def _model_object(id: str) -> dict[str, Any]:
    return {
        "type": "model",
        "id": id,
        "display_name": id,
        "created_at": "2025-01-01T00:00:00Z",
        "max_input_tokens": 1_000_000,
        "max_tokens": 64_000,
        "capabilities": {"image_input": {"supported": True}, "pdf_input": {"supported": False}},
    }
