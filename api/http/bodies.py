"""A request's body, when it is one we read: JSON, in UTF-8, as it is.

Refused with 400, not 415: LangChain repeats a 415 for minutes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TypeVar

from starlette.requests import Request

from infra.runtime.threads import in_thread
from infra.wire.errors import RequestRefused

T = TypeVar("T")

LARGE_BYTES = 128 * 1024
"""Smaller ones are read in a millisecond or two."""


async def json_body(request: Request) -> bytearray:
    """The body, which the request itself does not keep.

    Raises `RequestRefused` for one that says it is something else.
    """
    _check(request.headers)
    body = bytearray()
    async for piece in request.stream():
        body += piece
    return body


def held_while_read(body: bytearray) -> int:
    """Bytes that a request holds until its turn is handed over.

    The body, its texts (four bytes a character, if a single one of them is rare), and what is
    written to Redis, before and behind its encoding.
    """
    is_plain = body.isascii() and b"\\u" not in body
    return len(body) * (1 + (1 if is_plain else 4) + 2)


class LargeBodies:
    """Reads large bodies beside the loop, one after the other, so that streams go on meanwhile."""

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore()

    async def read(self, size: int, work: Callable[[], T]) -> T:
        """The result of `work`, which reads so many bytes."""
        if size <= LARGE_BYTES:
            return work()
        async with self._turn:
            return await in_thread(work)


def _check(headers: Mapping[str, str]) -> None:
    kind, *options = headers.get("content-type", "").lower().split(";")
    kind = kind.strip()
    if kind and kind != "application/json" and not kind.endswith("+json"):
        raise RequestRefused(
            "The body must be JSON: send `Content-Type: application/json`.", param="Content-Type"
        )
    for option in options:
        name, _, value = option.partition("=")
        if name.strip() == "charset" and value.strip(' "') not in ("utf-8", "utf8", "us-ascii"):
            raise RequestRefused("The body must be UTF-8.", param="Content-Type")
    # Never unpacked: a few kilobytes can hold gigabytes.
    if headers.get("content-encoding", "").strip().lower() not in ("", "identity"):
        raise RequestRefused("Send the body uncompressed.", param="Content-Encoding")
