"""A request's body, when it is one we read: JSON, in UTF-8, as it is.

Refused with 400, not 415: LangChain repeats a 415 for minutes.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import Request

from infra.wire.errors import RequestRefused


async def json_body(request: Request) -> bytes:
    """The body. Raises `RequestRefused` for one that says it is something else."""
    _check(request.headers)
    return await request.body()


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
