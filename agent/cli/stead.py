"""Makes calls in the model's stead: a socket between a CLI and its model.

A call that its user has approved must run exactly as it was shown to them, days later and perhaps
in another CLI. The CLI runs only what its model calls. So the CLI's next request, which tells the
model that the call was approved, is answered here, with that call. The model reads its result like
that of any call of its own. Everything else passes through unchanged.

Each connection has one request, so that none goes by unseen.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import re
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from agent.cli.offers import OfferedCall

log = logging.getLogger(__name__)

Json = dict[str, Any]

HEAD_MAX_BYTES = 64 * 1024
BODY_MAX_BYTES = 64 * 1024 * 1024
CONNECT_TIMEOUT_S = 10.0
_CHUNK_BYTES = 64 * 1024
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d{1,10})(?=\r\n)", re.IGNORECASE)
_UNSIZED = re.compile(rb"\r\ntransfer-encoding:", re.IGNORECASE)
_KEPT_OPEN = re.compile(rb"\r\n(?:connection|keep-alive):[^\r\n]*", re.IGNORECASE)
_ASKS_MODEL = re.compile(rb"POST [^ ]*/v1/messages(?:\?[^ ]*)? ")
_ANSWER_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n"
    b"connection: close\r\n\r\n"
)


class CallsInStead:
    """Listens when it is first asked for its socket."""

    def __init__(self, model_socket: Path, own_socket: Path, group: asyncio.TaskGroup) -> None:
        """`own_socket`: where it listens."""
        self._model_socket = model_socket
        self._path = own_socket
        self._group = group
        self._server: asyncio.Server | None = None
        self._result_of: str | None = None
        self._calls: Sequence[OfferedCall] = ()

    async def socket(self) -> Path:
        """Where a CLI finds its model."""
        if self._server is None:
            self._server = await asyncio.start_unix_server(
                self._accept, self._path, limit=HEAD_MAX_BYTES
            )
        return self._path

    def make(self, calls: Sequence[OfferedCall], *, result_of: str | None) -> None:
        """Answer the next request that ends with the result of that call with these calls."""
        self._calls, self._result_of = calls, result_of

    def forget(self) -> None:
        """No more calls: they are made, or not wanted any more."""
        self._calls, self._result_of = (), None

    def close(self) -> None:
        """Stop listening. Open connections end with the task group."""
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._group.create_task(self._serve(reader, writer))
        task.add_done_callback(lambda _: writer.close())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(found[1]) if (found := _LENGTH.search(head)) else 0
            body = b""
            if self._calls and _ASKS_MODEL.match(head) and length <= BODY_MAX_BYTES:
                body = await reader.readexactly(length)
                if answer := self._answer(body):
                    writer.write(answer)
                    await writer.drain()
                    return
            left = math.inf if _UNSIZED.search(head) else length - len(body)
            await self._pass_on(_closing(head) + body, left, reader, writer)
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            pass  # The CLI has hung up, or sends what no CLI sends.

    async def _pass_on(
        self,
        begun: bytes,
        left: float,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                model, to_model = await asyncio.open_unix_connection(self._model_socket)
        except (OSError, TimeoutError) as error:
            log.warning("the model's socket does not answer: %s", error)
            return
        try:
            to_model.write(begun)
            async with asyncio.TaskGroup() as group:
                asking = group.create_task(_ask(reader, to_model, left))
                answer = group.create_task(_copy(model, writer))
                # The first to end ends both: a CLI that hangs up wants no more of the answer.
                await asyncio.wait({asking, answer}, return_when=asyncio.FIRST_COMPLETED)
                asking.cancel()
                answer.cancel()
        except* OSError:
            pass
        finally:
            to_model.close()

    def _answer(self, body: bytes) -> bytes | None:
        """The calls as the answer to a request; None if the model has to answer it."""
        try:
            asked = json.loads(body)
            content = asked["messages"][-1]["content"]
            is_awaited = asked.get("stream") is True and any(
                block.get("type") == "tool_result" and block.get("tool_use_id") == self._result_of
                for block in content
            )
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return None
        if not is_awaited:
            return None
        return _ANSWER_HEAD + b"".join(_events(self._calls, model=str(asked.get("model"))))


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, left: float) -> None:
    """Send the rest of the request. Returns when the CLI hangs up, or sends more than that: behind
    the request nothing may follow, because it would go by unseen."""
    while chunk := await reader.read(_CHUNK_BYTES):
        writer.write(chunk if len(chunk) <= left else chunk[: int(left)])
        left -= len(chunk)
        if left < 0:
            return
        await writer.drain()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(_CHUNK_BYTES):
        writer.write(chunk)
        await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()


def _closing(head: bytes) -> bytes:
    """The head of a request that is the last one of its connection."""
    return _KEPT_OPEN.sub(b"", head[:-2]) + b"connection: close\r\n\r\n"


def _events(calls: Sequence[OfferedCall], *, model: str) -> Iterator[bytes]:
    usage = {"input_tokens": 0, "output_tokens": 0}
    message: Json = {
        "id": f"msg_{uuid.uuid4().hex[:24]}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }
    yield _event("message_start", message=message)
    for i, call in enumerate(calls):
        block = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}
        delta = {"type": "input_json_delta", "partial_json": json.dumps(dict(call.input))}
        yield _event("content_block_start", index=i, content_block=block)
        yield _event("content_block_delta", index=i, delta=delta)
        yield _event("content_block_stop", index=i)
    stopped = {"stop_reason": "tool_use", "stop_sequence": None}
    yield _event("message_delta", delta=stopped, usage=usage)
    yield _event("message_stop")


def _event(kind: str, **fields: Any) -> bytes:
    data = json.dumps({"type": kind, **fields}, separators=(",", ":"))
    return f"event: {kind}\ndata: {data}\n\n".encode()
