"""Reads the body of a call: JSON of a bounded shape, then one of A2A's messages.

The SDK's own server is not used for this: it logs bodies, and reads one of any shape in the event
loop.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from a2a.utils.errors import InvalidRequestError, JSONParseError
from a2a.utils.proto_utils import parse_params
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import Message
from starlette.datastructures import QueryParams

from api.a2a.errors import ProtocolRefusal
from infra.wire.errors import RequestRefused

M = TypeVar("M", bound=Message)

VALUES_MAX = 10_000
"""Values in one body: objects, lists, texts, numbers. Each costs a thousand times its size."""
DEPTH_MAX = 50

_FIELDS = re.compile(r"Failed to parse (\w+) field")


def read_json(body: bytes | bytearray) -> dict[str, Any]:
    """The JSON object of a body. Raises `ProtocolRefusal` and `RequestRefused`."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ProtocolRefusal(JSONParseError, "The body is not valid JSON.") from None
    if not isinstance(value, dict):
        raise ProtocolRefusal(
            InvalidRequestError, "The body must be a JSON object; batches are not supported."
        )
    _check_shape(value)
    return value


def read_message(told: Mapping[str, Any], message: M) -> M:
    """The message that a JSON object says. Fields of later versions are skipped.

    Raises `RequestRefused`, which names the field but does not quote its value.
    """
    try:
        ParseDict(dict(told), message, ignore_unknown_fields=True)
    except _UNREADABLE as error:
        raise _refusal(error) from None
    return message


def read_query(told: QueryParams, message: M) -> M:
    """The message that a query says. Raises `RequestRefused`."""
    try:
        parse_params(told, message)
    except _UNREADABLE as error:
        raise _refusal(error) from None
    return message


_UNREADABLE = (ParseError, TypeError, ValueError, AttributeError)


def _refusal(error: Exception) -> RequestRefused:
    field = ".".join(_FIELDS.findall(str(error)))
    told = f"`{field}`" if field else "The request"
    return RequestRefused(f"{told} has not the form that A2A 1.0 gives it.", param=field or None)


def _check_shape(value: Any) -> None:
    left, count = [(value, 1)], 0
    while left:
        one, depth = left.pop()
        within = one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
        count += 1 + len(within)
        if depth > DEPTH_MAX or count > 2 * VALUES_MAX:
            raise RequestRefused(
                f"The body has more than {VALUES_MAX} values, or more than {DEPTH_MAX} inside one "
                "another. Send large data as a file."
            )
        left += [(other, depth + 1) for other in within if isinstance(other, dict | list)]
