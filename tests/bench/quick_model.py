"""A model that costs next to nothing: `python -m tests.bench.quick_model PORT`.

Speaks as much of the Messages API as the hot measures ask for, so that neither the direct stream
nor a proxy in front of it is limited by the model. The last message is a script, spelled as the
stand-in agent's: `stream N every MS`, `count 1`, `hang`; anything else is answered with `ok`.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from typing import Any, cast

import uvloop

from infra.runtime.lifecycle import stop_signals

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_STREAM = re.compile(r"stream (\d+) every ([\d.]+)")
_MESSAGE: dict[str, Any] = {
    "id": "msg_bench",
    "type": "message",
    "role": "assistant",
    "model": "bench",
    "content": [],
    "stop_reason": None,
    "stop_sequence": None,
    "usage": {"input_tokens": 10, "output_tokens": 1},
}


def _event(kind: str, **fields: Any) -> bytes:
    data = json.dumps({"type": kind, **fields})
    return _chunk(f"event: {kind}\ndata: {data}\n\n".encode())


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


_OPENED = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
    + _event("message_start", message=_MESSAGE)
    + _event("content_block_start", index=0, content_block={"type": "text", "text": ""})
)
_CLOSED = (
    _event("content_block_stop", index=0)
    + _event(
        "message_delta",
        delta={"stop_reason": "end_turn", "stop_sequence": None},
        usage={"output_tokens": 5},
    )
    + _event("message_stop")
    + b"0\r\n\r\n"
)


def _delta(text: str) -> bytes:
    return _event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})


class _Caller(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._read = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._read += data
        head, end, body = self._read.partition(b"\r\n\r\n")
        found = _LENGTH.search(head)
        length = int(found[1]) if found else 0
        if end and len(body) >= length:
            self._read = body[length:]
            self._answer(json.loads(body[:length] or b"{}"))

    def _answer(self, request: dict[str, Any]) -> None:
        assert self._transport is not None
        prompt = _prompt(request)
        if not request.get("stream"):
            return self._transport.write(_whole())
        if paced := _STREAM.match(prompt):
            self._transport.write(_OPENED)
            count, every_s = int(paced[1]), float(paced[2]) / 1000
            return self._go_on(0, count, every_s, asyncio.get_running_loop().time())
        self._transport.write(_OPENED + (b"" if prompt == "hang" else _delta("ok") + _CLOSED))

    def _go_on(self, index: int, count: int, every_s: float, due_s: float) -> None:
        assert self._transport is not None
        if self._transport.is_closing():
            return
        if index:
            self._transport.write(_delta(f"{index - 1}@{time.monotonic_ns()} "))
        if index == count:
            return self._transport.write(_CLOSED)
        asyncio.get_running_loop().call_at(
            due_s + every_s, self._go_on, index + 1, count, every_s, due_s + every_s
        )


def _prompt(request: dict[str, Any]) -> str:
    messages = request.get("messages") or [{"content": ""}]
    content = messages[-1]["content"]
    return str(content if isinstance(content, str) else content[-1]["text"])


def _whole() -> bytes:
    content = [{"type": "text", "text": "ok"}]
    body = json.dumps({**_MESSAGE, "content": content, "stop_reason": "end_turn"}).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


async def main(port: int) -> None:
    """Until SIGTERM."""
    with stop_signals() as stop:
        server = await asyncio.get_running_loop().create_server(_Caller, "127.0.0.1", port)
        async with server:
            await stop.wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(int(sys.argv[1])))
