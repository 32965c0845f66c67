"""A file's bytes as an answer: whole, or the range that was asked for."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable, Mapping
from urllib.parse import quote

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.http.disconnect import HungUp, while_connected
from infra.runtime.logs import fields
from infra.store.files.files import FileRecord
from infra.wire.errors import AgClusterError, ErrorCode, RequestRefused

log = logging.getLogger(__name__)

_RANGE = re.compile(r"bytes=([0-9]{0,15})-([0-9]{0,15})")
_SAFE = re.compile(r"[^A-Za-z0-9 ._()\[\]-]")

Reader = Callable[[int, int], AsyncIterator[bytes]]
"""The bytes from one place to before another."""


class FileAnswer(Response):
    """Sends a file in pieces, each within the send timeout. A client that leaves ends it.

    It is sent as an attachment of no type: what is in it, and what its sender said of it, must
    mean nothing to a browser. The first piece is read before the answer begins, so a file store
    that does not answer is an error like any other.
    """

    def __init__(
        self, record: FileRecord, read: Reader, headers: Mapping[str, str], *, send_timeout_s: float
    ) -> None:
        """Raises `RequestRefused` for a range that the file does not have."""
        self._record = record
        self._read = read
        self._send_timeout_s = send_timeout_s
        self._start, self._end = byte_range(headers, record)
        is_part = self._end - self._start < record.bytes
        super().__init__(status_code=206 if is_part else 200, headers=self._told(is_part))

    def _told(self, is_part: bool) -> dict[str, str]:
        headers = {
            "content-type": "application/octet-stream",
            "content-length": str(self._end - self._start),
            "content-disposition": attachment(self._record.name),
            "content-security-policy": "default-src 'none'; frame-ancestors 'none'; sandbox",
            "accept-ranges": "bytes",
            "etag": etag(self._record),
        }
        if is_part:
            span = f"{self._start}-{self._end - 1}"
            headers["content-range"] = f"bytes {span}/{self._record.bytes}"
        return headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await while_connected(scope, receive, self._run(send))
        except HungUp:
            raise ClientDisconnect from None

    async def _run(self, send: Send) -> None:
        pieces = self._read(self._start, self._end)
        piece = await anext(pieces, b"")
        start = {"type": "http.response.start", "status": self.status_code}
        await self._say(send, start | {"headers": self.raw_headers})
        while piece:
            more = {"type": "http.response.body", "body": piece, "more_body": True}
            await self._say(send, more)
            piece = await self._next(pieces)
        await self._say(send, {"type": "http.response.body", "body": b"", "more_body": False})

    async def _next(self, pieces: AsyncIterator[bytes]) -> bytes:
        try:
            return await anext(pieces, b"")
        except AgClusterError as error:
            # Too late for an answer that says so. It ends before the length that it announced.
            log.warning("file cut: %s", error, extra=fields(file=self._record.id))
            raise HungUp("the file ended early") from None

    async def _say(self, send: Send, message: dict[str, object]) -> None:
        try:
            async with asyncio.timeout(self._send_timeout_s):
                await send(message)
        except TimeoutError:
            raise HungUp("the client reads nothing") from None


def byte_range(headers: Mapping[str, str], record: FileRecord) -> tuple[int, int]:
    """First byte and the one behind the last. A range that we do not understand, several of them
    included, means the whole file, as HTTP allows.

    Raises `RequestRefused` (416) for one that the file does not have.
    """
    whole = 0, record.bytes
    found = _RANGE.fullmatch(headers.get("range", "").strip())
    if_range = headers.get("if-range")
    if found is None or (if_range is not None and if_range != etag(record)):
        return whole
    first, last = found[1], found[2]
    if not first and not last:
        return whole
    if not first:
        start, end = max(0, record.bytes - int(last)), record.bytes
    else:
        start, end = int(first), min(int(last or record.bytes), record.bytes - 1) + 1
        if last and int(last) < start:
            return whole
    if start >= end:
        raise RequestRefused("", code=ErrorCode.RANGE_NOT_SATISFIABLE, param="Range")
    return start, end


def etag(record: FileRecord) -> str:
    """Of its bytes, which never change."""
    return f'"{record.digest}"'


def attachment(name: str) -> str:
    """The header by which a browser saves a file. What could be a path in the name is left out."""
    base = re.split(r"[/\\\x00]", name)[-1].strip(" .") or "file"
    plain = _SAFE.sub("_", base)
    header = f'attachment; filename="{plain[:200]}"'
    if plain != base:
        header += f"; filename*=UTF-8''{quote(base[:200], safe='')}"
    return header
