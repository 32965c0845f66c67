"""The load generator: kept connections that cost as little as they can.

The client shares the machine with what it measures, so while an answer comes it only notes when
which bytes came; everything is read out of them afterwards. A delta is known by the stamp that the
model or the stand-in agent wrote into it (`<index>@<monotonic or Unix ns> `), whatever stands
around it: an event of the Messages API or a chunk of an OpenAI completion, alone or joined with its
neighbours. All programs share one machine's clocks.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

STAMP = re.compile(rb"(\d+)@(\d{9,19}) ")
_TEXT = re.compile(rb'"(?:text|content)":\s?"[^"]')
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_HEAD_END = b"\r\n\r\n"
_LAST_CHUNK = b"\r\n0\r\n\r\n"
_KEPT_S = 3.0
"""Some servers give up a silent connection after 5 s."""
CONNECT_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 120.0


class Incomplete(Exception):
    """An answer that failed, or lost, doubled or reordered deltas: its times mean nothing."""


@dataclass
class Answer:
    """What came, and when: nothing is read before it is asked for."""

    asked_ns: int
    pieces: list[tuple[int, int, bytes]] = field(default_factory=list)
    """Monotonic and Unix ns of arrival, bytes."""

    @property
    def body(self) -> bytes:
        return b"".join(piece for _, _, piece in self.pieces)

    @property
    def first_delta_s(self) -> float:
        """From the request to the first text. Raises `Incomplete`."""
        seen = b""
        for at_ns, _, piece in self.pieces:
            # What an earlier piece began may be completed by this one.
            seen = seen[-64:] + piece
            if _TEXT.search(seen):
                return (at_ns - self.asked_ns) / 1e9
        raise Incomplete(f"an answer without text: {self.body[:500]!r}")

    @property
    def took_s(self) -> float:
        """From the request to the last byte."""
        return (self.pieces[-1][0] - self.asked_ns) / 1e9

    def ages_s(self, deltas: int) -> list[float]:
        """Age of each delta on arrival. Raises `Incomplete` unless each came once, in order."""
        ages: list[float] = []
        indexes: list[int] = []
        rest = b""
        for monotonic_ns, unix_ns, piece in self.pieces:
            lines, _, rest = (rest + piece).rpartition(b"\n")
            for index, stamp in STAMP.findall(lines):
                indexes.append(int(index))
                sent_ns = int(stamp)
                # Unix time is the only one with 19 digits.
                ages.append(((unix_ns if sent_ns >= 10**18 else monotonic_ns) - sent_ns) / 1e9)
        if indexes != list(range(deltas)):
            raise Incomplete(
                f"{len(indexes)} of {deltas} deltas: {indexes[:8]} {self.body[-300:]!r}"
            )
        return ages


@dataclass(frozen=True)
class Question:
    """How one target is asked over HTTP."""

    base_url: str
    path: str
    headers: Mapping[str, str]
    body: Mapping[str, Any] = field(default_factory=dict)

    def request(self, messages: Sequence[Mapping[str, str]], *, is_streamed: bool) -> bytes:
        """The bytes to send."""
        body = {**self.body, "stream": is_streamed, "messages": messages}
        payload = json.dumps(body).encode()
        head = [
            f"POST {self.path} HTTP/1.1",
            f"host: {urlsplit(self.base_url).netloc}",
            "content-type: application/json",
            f"content-length: {len(payload)}",
            *(f"{name}: {value}" for name, value in self.headers.items()),
        ]
        return "\r\n".join(head).encode() + _HEAD_END + payload


def says(prompt: str) -> list[Mapping[str, str]]:
    """A request's messages with nothing but a prompt."""
    return [{"role": "user", "content": prompt}]


def anthropic(base_url: str, *, model: str, key: str) -> Question:
    """The Messages API."""
    headers = {"x-api-key": key, "anthropic-version": "2023-06-01"}
    return Question(base_url, "/v1/messages", headers, {"model": model, "max_tokens": 1024})


def openai(base_url: str, *, model: str, key: str, conversation: str | None = None) -> Question:
    """Chat completions, in a named conversation or without one."""
    headers = {"authorization": f"Bearer {key}"}
    if conversation:
        headers["x-conversation-id"] = conversation
    return Question(base_url, "/v1/chat/completions", headers, {"model": model})


class Transport(Protocol):
    """What a connection needs of asyncio's."""

    def write(self, data: bytes) -> None: ...
    def is_closing(self) -> bool: ...
    def abort(self) -> None: ...


class Connection(asyncio.Protocol):
    """One connection of HTTP/1.1 that is kept between questions; one question at a time."""

    def __init__(self) -> None:
        self._transport: Transport | None = None
        self._url = ""
        self._answer: Answer | None = None
        self._done: asyncio.Future[None] | None = None
        self._head = b""
        self._left: int | None = None
        """Bytes of the body still to come; None where it comes in chunks."""
        self._tail = b""
        self._used_s = 0.0

    async def ask(
        self,
        question: Question,
        messages: Sequence[Mapping[str, str]],
        *,
        is_streamed: bool = True,
        within_s: float = ANSWER_TIMEOUT_S,
    ) -> Answer:
        """Ask and read to the end. Raises `Incomplete`, `OSError` and `TimeoutError`."""
        answer = await self.open(question, messages, is_streamed=is_streamed)
        async with asyncio.timeout(within_s):
            await self.ended()
        self._answer = None
        self._used_s = time.monotonic()
        return answer

    async def open(
        self,
        question: Question,
        messages: Sequence[Mapping[str, str]],
        *,
        is_streamed: bool = True,
    ) -> Answer:
        """Ask only. The answer fills itself while its bytes come."""
        request = question.request(messages, is_streamed=is_streamed)
        transport = await self._connected(question.base_url)
        self._head, self._tail, self._left = b"", b"", None
        self._done = asyncio.get_running_loop().create_future()
        self._answer = answer = Answer(time.monotonic_ns())
        transport.write(request)
        return answer

    async def ended(self) -> None:
        """Until the answer is whole. Raises `Incomplete` for one that never will be."""
        assert self._done is not None
        await self._done

    @property
    def is_done(self) -> bool:
        """Whether the answer is whole, or never will be."""
        return self._done is not None and self._done.done()

    def connected_to(self, url: str, transport: Transport) -> None:
        """Use this connection, which was made just now."""
        self._transport, self._url, self._used_s = transport, url, time.monotonic()

    def close(self) -> None:
        """Hang up, in the middle of an answer too."""
        self._answer = self._done = None
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def data_received(self, data: bytes) -> None:
        arrived = time.monotonic_ns(), time.time_ns()
        if self._answer is None:
            return
        if not self._head.endswith(_HEAD_END):
            data = self._read_head(data)
            if not data and self._left != 0:
                return
        self._answer.pieces.append((*arrived, data))
        if self._left is None:
            self._tail = (self._tail + data)[-len(_LAST_CHUNK) :]
            if self._tail == _LAST_CHUNK:
                self._end()
            return
        self._left -= len(data)
        if self._left <= 0:
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._done is not None and not self._done.done():
            self._fail(f"the connection ended: {exc!r}")

    def _read_head(self, data: bytes) -> bytes:
        """What of it belongs to the body."""
        head, end, body = (self._head + data).partition(_HEAD_END)
        self._head = head + end
        if not end:
            return b""
        if found := _LENGTH.search(head):
            self._left = int(found[1])
        if not head.startswith(b"HTTP/1.1 200"):
            self._fail(f"{head[:200]!r} {body[:500]!r}")
        return body

    async def _connected(self, url: str) -> Transport:
        if self._transport is not None and self._transport.is_closing():
            self._transport = None
        if self._transport is not None and (
            url != self._url or time.monotonic() - self._used_s > _KEPT_S
        ):
            self.close()
        if self._transport is None:
            host, _, port = urlsplit(url).netloc.partition(":")
            loop = asyncio.get_running_loop()
            self._done = None
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                transport, _ = await loop.create_connection(lambda: self, host, int(port))
            self.connected_to(url, transport)
        assert self._transport is not None
        return self._transport

    def _end(self) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(None)

    def _fail(self, why: str) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(Incomplete(why))
