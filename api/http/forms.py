"""Reads a `multipart/form-data` body as it arrives, so that a file in it is never held whole.

FastAPI's own forms are read, and spooled to the disk, before a route can say no.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from infra.wire.errors import RequestRefused

FIELD_MAX_BYTES = 16 * 1024
FIELDS_MAX = 32
"""Parts of a form, files included."""
HEADER_MAX_BYTES = 16 * 1024
AT_ONCE_BYTES = 64 * 1024


@dataclass(frozen=True)
class FormFile:
    """The head of a file in a form: its field, and what its sender says of it."""

    field: str
    name: str
    type: str


class _PartBegins:
    """The head of a part has arrived."""

    def __init__(self, headers: Mapping[bytes, bytes]) -> None:
        said = headers.get(b"content-disposition", b"").decode("latin-1")
        _, options = parse_options_header(said)
        self.field = options.get(b"name", b"").decode("utf-8", "replace")
        name = options.get(b"filename")
        self.file_name = None if name is None else name.decode("utf-8", "replace")
        self.type = headers.get(b"content-type", b"").decode("latin-1").strip()


class _PartEnds:
    pass


class _FormEnds:
    pass


_Sight = _PartBegins | _PartEnds | _FormEnds | bytes


class FormReader:
    """One form. `fields` fills while it is read; files are read in the order in which they come."""

    def __init__(self, headers: Mapping[str, str], chunks: AsyncIterator[bytes]) -> None:
        """Raises `RequestRefused` if the headers announce no form."""
        self.fields: dict[str, str] = {}
        self._chunks = chunks
        self._sights = deque[_Sight]()
        self._headers: dict[bytes, bytes] = {}
        self._header = (bytearray(), bytearray())
        self._parts = 0
        self._is_in_file = False
        self._parser = MultipartParser(
            _boundary(headers),
            {
                "on_part_begin": self._on_part_begin,
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers_finished,
                "on_part_data": self._on_part_data,
                "on_part_end": lambda: self._sights.append(_PartEnds()),
                "on_end": lambda: self._sights.append(_FormEnds()),
            },
            max_header_size=HEADER_MAX_BYTES,
        )

    async def next_file(self) -> FormFile | None:
        """Read up to the next file; None at the form's end. What is left of the file before is
        skipped. Raises `RequestRefused` for what is no form, or too large."""
        async for _ in self.pieces():
            pass
        while True:
            match await self._next():
                case _FormEnds():
                    return None
                case _PartBegins() as part if part.file_name is not None:
                    self._is_in_file = True
                    return FormFile(part.field, part.file_name, part.type)
                case _PartBegins() as part:
                    self.fields[part.field] = await self._value(part.field)
                case _:
                    raise _invalid()

    async def pieces(self) -> AsyncIterator[bytes]:
        """The bytes of the file that is being read."""
        while self._is_in_file:
            match await self._next():
                case bytes() as piece:
                    yield piece
                case _PartEnds():
                    self._is_in_file = False
                case _:
                    raise _invalid()

    async def _value(self, field: str) -> str:
        value = bytearray()
        while isinstance(sight := await self._next(), bytes):
            value += sight
            if len(value) > FIELD_MAX_BYTES:
                raise RequestRefused(
                    f"The field is larger than {FIELD_MAX_BYTES} bytes.", param=field[:100]
                )
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise RequestRefused("The field must be UTF-8.", param=field[:100]) from None

    async def _next(self) -> _Sight:
        while not self._sights:
            chunk = await anext(self._chunks, b"")
            if not chunk:
                raise RequestRefused("The form ends before its last boundary.")
            # A server may hand on what has piled up; others get their turn between the pieces.
            for at in range(0, len(chunk), AT_ONCE_BYTES):
                if at:
                    await asyncio.sleep(0)
                self._parse(chunk[at : at + AT_ONCE_BYTES])
        return self._sights.popleft()

    def _parse(self, piece: bytes) -> None:
        try:
            self._parser.write(piece)
        except FormParserError:
            raise _invalid() from None
        if self._parts > FIELDS_MAX:
            raise RequestRefused(f"The form has more than {FIELDS_MAX} parts.")

    def _on_part_begin(self) -> None:
        self._parts += 1
        self._headers = {}

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header[0].extend(data[start:end])

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1].extend(data[start:end])

    def _on_header_end(self) -> None:
        name, value = self._header
        self._headers[bytes(name).lower()] = bytes(value)
        self._header = (bytearray(), bytearray())

    def _on_headers_finished(self) -> None:
        self._sights.append(_PartBegins(self._headers))

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._sights.append(data[start:end])


def _boundary(headers: Mapping[str, str]) -> bytes:
    kind, options = parse_options_header(headers.get("content-type", ""))
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not boundary:
        raise RequestRefused(
            "Send the file in a form: `Content-Type: multipart/form-data`, with a boundary.",
            param="Content-Type",
        )
    if len(boundary) > 200:
        raise _invalid()
    if headers.get("content-encoding", "").strip().lower() not in ("", "identity"):
        raise RequestRefused("Send the form uncompressed.", param="Content-Encoding")
    return boundary


def _invalid() -> RequestRefused:
    return RequestRefused("The body is no valid form (multipart/form-data).")
