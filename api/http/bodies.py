"""Reads a request's body, if it is uncompressed JSON in UTF-8.

Others are refused with 400, not 415, because LangChain repeats a 415 for minutes.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import msgspec
from starlette.requests import Request

from infra.runtime.threads import in_thread
from infra.wire.errors import RequestRefused
from infra.wire.ids import TenantId

T = TypeVar("T")

LARGE_BYTES = 128 * 1024
"""Smaller ones are parsed in a millisecond or two."""


async def json_body(request: Request) -> bytearray:
    """The body, which the request object itself does not keep.

    Raises `RequestRefused` for a body of another type.
    """
    _check(request.headers)
    body = bytearray()
    async for piece in request.stream():
        body += piece
    return body


SMALL_BYTES = 1024 * 1024


async def read_small(request: Request, kind: type[T], *, known: Sequence[str] = ()) -> T:
    """A small body of that form. `known` are the words of its enumerations.

    Raises `RequestRefused` for anything else.
    """
    _check(request.headers)
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > SMALL_BYTES:
            raise RequestRefused(f"The body is larger than {SMALL_BYTES} bytes.")
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise type_refusal(error, known=known) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise RequestRefused("The body is not valid JSON.") from None


def type_refusal(
    error: msgspec.ValidationError, where: str = "", *, known: Sequence[str] = ()
) -> RequestRefused:
    """A type error in OpenAI's notation: `messages[0].role`.

    `where` is the field that was parsed, `known` are the words of its enumerations.
    """
    what, _, path = str(error).partition(" - at `$")
    param = (where + path.removesuffix("`")).removeprefix(".") or None
    if missing := _MISSING.fullmatch(what):
        param = f"{param}.{missing[1]}" if param else missing[1]
        return RequestRefused(f"`{param}` is required.", param=param)
    if param is None:
        return RequestRefused("The body must be a JSON object.")
    if what.startswith("Invalid enum value"):
        # The received value is not repeated, because people put keys into the wrong fields.
        return RequestRefused(f"`{param}` must be one of {', '.join(known)}.", param=param)
    return RequestRefused(f"`{param}`: {what[0].lower()}{what[1:].replace('`', '')}.", param=param)


_MISSING = re.compile(r"Object missing required field `(\w+)`")


def held_while_read(body: bytearray) -> int:
    """The number of bytes that a request holds until its turn is submitted.

    The body, its texts (four bytes per character if it contains a single rare one), and the data
    written to Redis, before and after encoding.
    """
    is_plain = body.isascii() and b"\\u" not in body
    return len(body) * (1 + (1 if is_plain else 4) + 2)


class LargeBodies:
    """Parses large bodies in a thread, one after the other, so that streams continue meanwhile.

    Tenants are served in turn: one with many large requests delays another by one of them.
    """

    def __init__(self) -> None:
        self._lane = _Lane()

    async def read(self, size: int, work: Callable[[], T], *, tenant: TenantId) -> T:
        """The result of `work`, which parses this many bytes."""
        if size <= LARGE_BYTES:
            return work()
        async with self._lane.place(tenant):
            return await in_thread(work)


class _Lane:
    """One place, for one tenant after the other."""

    def __init__(self) -> None:
        self._is_taken = False
        self._waiting: OrderedDict[TenantId, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def place(self, tenant: TenantId) -> AsyncIterator[None]:
        await self._enter(tenant)
        try:
            yield
        finally:
            self._hand_on()

    async def _enter(self, tenant: TenantId) -> None:
        if not self._is_taken:
            self._is_taken = True
            return
        place = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, deque()).append(place)
        try:
            await place
        except asyncio.CancelledError:
            if not place.cancelled():  # We just got the place.
                self._hand_on()
            raise

    def _hand_on(self) -> None:
        """Pass the place to the first request of the tenant that has waited longest; that tenant's
        next request waits behind the others."""
        while self._waiting:
            tenant, places = self._waiting.popitem(last=False)
            while places:
                place = places.popleft()
                if place.done():  # Cancelled: nobody waits for it.
                    continue
                if places:
                    self._waiting[tenant] = places
                place.set_result(None)
                return
        self._is_taken = False


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
    # Never unpacked, because a few kilobytes can contain gigabytes.
    if headers.get("content-encoding", "").strip().lower() not in ("", "identity"):
        raise RequestRefused("Send the body uncompressed.", param="Content-Encoding")
