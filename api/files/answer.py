"""A file's bytes as an answer: whole, or the range that was asked for."""

from __future__ import annotations

import asyncio
import logging
import re
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
from urllib.parse import quote

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.http.disconnect import HungUp, while_connected
from infra.runtime.logs import fields
from infra.store.files.files import FileRecord
from infra.wire.errors import AgClusterError, ErrorCode, RequestRefused
from infra.wire.files.kinds import PICTURES, TEXT

log = logging.getLogger(__name__)

_RANGE = re.compile(r"bytes=([0-9]{0,15})-([0-9]{0,15})")
_SAFE = re.compile(r"[^A-Za-z0-9 ._()\[\]-]")

_GUARDED = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'; sandbox",
    "cross-origin-resource-policy": "cross-origin",
    "referrer-policy": "no-referrer",
}
_SHOWN = {kind: kind for kind in PICTURES} | {TEXT: "text/plain; charset=utf-8"}
"""What a browser may show, and as what: never anything that runs."""

Reader = Callable[[int, int], AsyncIterator[bytes]]
"""The bytes from one place to before another."""


class PiecesAnswer(Response, ABC):
    """Sends bytes in pieces, each within the send timeout. A client that leaves ends it.

    Nothing in it may mean anything to a browser. The first piece is read before the answer begins,
    so a file store that does not answer is an error like any other.
    """

    def __init__(
        self, *, name: str, headers: dict[str, str], send_timeout_s: float, status: int = 200
    ) -> None:
        """`name` is for the log."""
        self._name = name
        self._send_timeout_s = send_timeout_s
        super().__init__(status_code=status, headers=_GUARDED | headers)
        if "content-length" not in headers:
            del self.headers["content-length"]

    @abstractmethod
    def pieces(self) -> AsyncIterator[bytes]:
        """What is sent. Raises `FileGone` and `FileStoreUnavailable`."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await while_connected(scope, receive, self._run(send))
        except HungUp:
            raise ClientDisconnect from None

    async def _run(self, send: Send) -> None:
        pieces = self.pieces()
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
            log.warning("file cut: %s", error, extra=fields(file=self._name))
            raise HungUp("the file ended early") from None

    async def _say(self, send: Send, message: dict[str, object]) -> None:
        try:
            async with asyncio.timeout(self._send_timeout_s):
                await send(message)
        except TimeoutError:
            raise HungUp("the client reads nothing") from None


class FileAnswer(PiecesAnswer):
    """Sends a file, or a range of it: as an attachment of no type, because what is in it, and what
    its sender said of it, must mean nothing to a browser."""

    def __init__(
        self,
        record: FileRecord,
        read: Reader,
        headers: Mapping[str, str],
        *,
        send_timeout_s: float,
        may_be_shown: bool = False,
    ) -> None:
        """`may_be_shown`: pictures and plain text are sent as such, for a browser to show.

        Raises `RequestRefused` for a range that the file does not have.
        """
        self._record = record
        self._read = read
        self._start, self._end = byte_range(headers, record)
        is_part = self._end - self._start < record.bytes
        super().__init__(
            name=record.id,
            headers=self._told(is_part, _SHOWN.get(record.type) if may_be_shown else None),
            send_timeout_s=send_timeout_s,
            status=206 if is_part else 200,
        )

    def pieces(self) -> AsyncIterator[bytes]:
        """See `PiecesAnswer`."""
        return self._read(self._start, self._end)

    def _told(self, is_part: bool, shown_as: str | None) -> dict[str, str]:
        saved = attachment(self._record.name)
        headers = {
            "content-type": shown_as or "application/octet-stream",
            "content-length": str(self._end - self._start),
            "content-disposition": saved.replace("attachment", "inline", 1) if shown_as else saved,
            "accept-ranges": "bytes",
            "etag": etag(self._record),
        }
        if is_part:
            span = f"{self._start}-{self._end - 1}"
            headers["content-range"] = f"bytes {span}/{self._record.bytes}"
        return headers


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
