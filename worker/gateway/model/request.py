"""Checks an agent's complete model request before a byte of it goes upstream.

The body is first read to its end, because its model must be known. It is never parsed into objects,
because a few megabytes of brackets would become hundreds. A duplicate name is refused, because two
parsers may use different occurrences. Anything that would make the model's service fetch for the
agent is refused, because it would bypass every egress policy, and none of our tools needs it.

Fields, types of tools and blocks (`worker.gateway.model.blocks`) and betas
(`worker.gateway.model.headers`) must be listed. The rest of the Messages API costs a caller money
that no token budget counts (containers that run code, faster or regional service, fallback models),
or accesses the caller's data there (files).
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
from aiohttp import web

from infra.runtime.signs import SIGNS_MAX, has_many_signs
from infra.wire.events import Usage
from infra.wire.text.foreign import foreign
from worker.gateway.model.blocks import DATED_TOOLS, refuse_blocks, refuse_tools
from worker.gateway.model.refusals import CallRefused, too_large

MESSAGES = "/v1/messages"
COUNT_TOKENS = "/v1/messages/count_tokens"

MODEL_NAME_MAX_CHARS = 128
PIECE_BYTES = 256 * 1024
_TARGETS = frozenset(
    path + query for path in (MESSAGES, COUNT_TOKENS) for query in ("", "?beta=true")
)
# In a text the quotes would be escaped, so a text may contain these words.
_BLANK = rb"[ \t\r\n]*"
_TYPE = rb'"type"' + _BLANK + rb":" + _BLANK
_DATED = re.compile(_TYPE + rb'"([A-Za-z0-9_.-]*?)[_-]?20[0-9]{6}"')
"""Types that the service itself carries out have a date: tools, edits of the context."""
_DATED_OPEN = frozenset(
    name.encode()
    for name in DATED_TOOLS
    | {
        "clear_thinking",  # Edits of the context: what remains is metered like any other.
        "clear_tool_uses",
        "compact",
    }
)
# One common prefix, because two of them would be searched at each byte.
_HELD = re.compile(
    rb'"(?:file_id"' + _BLANK + b":" + _BLANK + rb'"|' + _TYPE[1:] + rb'"mcp_toolset")'
)
"""What the caller already has at the service: files, connections."""
_FETCHED = re.compile(_TYPE + rb'"(?:url"|web_fetch_(?!tool_))')
_SEARCHED = re.compile(_TYPE + rb'"web_search_(?!tool_)')
_ESCAPED_LETTER = re.compile(rb"\\u00(?:3[0-9]|4[1-9a-fA-F]|5[0-9aAfF]|6[1-9a-fA-F]|7[0-9aA])")


# The base64 text of a picture or document is not metered as text; it costs about this much.
_BASE64 = re.compile(rb'"data"[ \t\r\n]*:[ \t\r\n]*"([A-Za-z0-9+/]{1024,}={0,2})"')
_PICTURE_TOKENS = 1_600
_DOCUMENT_TOKEN_BYTES = 100
_TOKEN_BYTES = 4
_WHOLE_ANSWER_MAX_TOKENS = 21_333
"""The service's own clients refuse a longer answer that is not streamed."""


Unread = msgspec.Raw
"""Skipped without creating objects."""
_UNKNOWN_FIELD = re.compile(r"unknown field `(.*)`", re.DOTALL)


class _Asked(msgspec.Struct, forbid_unknown_fields=True):
    """The fields that agents may use: the content of a call, and how it is answered.

    Only the model's name is created as an object.
    """

    model: str
    mcp_servers: None = None
    """The upstream would connect to them, which no egress policy sees."""
    cache_control: Unread = msgspec.Raw()
    context_management: Unread = msgspec.Raw()
    max_tokens: Unread = msgspec.Raw()
    messages: Unread = msgspec.Raw()
    metadata: Unread = msgspec.Raw()
    output_config: Unread = msgspec.Raw()
    output_format: Unread = msgspec.Raw()
    stop_sequences: Unread = msgspec.Raw()
    stream: Unread = msgspec.Raw()
    system: Unread = msgspec.Raw()
    temperature: Unread = msgspec.Raw()
    thinking: Unread = msgspec.Raw()
    tool_choice: Unread = msgspec.Raw()
    tools: Unread = msgspec.Raw()
    top_k: Unread = msgspec.Raw()
    top_p: Unread = msgspec.Raw()


OPEN_FIELDS = frozenset(_Asked.__struct_fields__)


class _Name:
    """A model's name. The decoder's hook is called for each occurrence."""


class _Named(msgspec.Struct):
    model: _Name


def check_target(request: web.BaseRequest) -> None:
    """Raises `CallRefused` for everything except the two calls that an agent needs.

    The target must match the CLI's byte for byte: no other spelling of a path, no full URL, no
    query.
    """
    if request.method != "POST" or request.raw_path not in _TARGETS:
        raise CallRefused(403, "permission_error", "This path is not open to agents.")
    if "upgrade" in request.headers:
        raise CallRefused(403, "permission_error", "This connection cannot become another one.")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise CallRefused(415, "invalid_request_error", "A compressed request is not read here.")


def is_counted(request: web.BaseRequest) -> bool:
    """Whether the call counts: counting tokens costs none."""
    return not request.raw_path.startswith(COUNT_TOKENS)


async def read_body(request: web.BaseRequest, *, max_bytes: int, silence_s: float) -> bytes:
    """The whole body. Raises `CallRefused`, also if the agent stops sending."""
    if (request.content_length or 0) > max_bytes:
        raise too_large(max_bytes)
    read = bytearray()
    try:
        while True:
            async with asyncio.timeout(silence_s):
                chunk = await request.content.readany()
            if not chunk:
                return bytes(read)
            read += chunk
            if len(read) > max_bytes:
                raise too_large(max_bytes)
    except TimeoutError as error:
        message = "The request did not arrive in time."
        raise CallRefused(408, "timeout_error", message, is_retry_pointless=False) from error


@dataclass(frozen=True)
class Judged:
    """What is kept of an accepted call after its body was sent."""

    model: str
    estimate: Usage
    """Its estimated cost, if the client leaves before the answer reports one."""
    digest: bytes
    """Identifies the call if it is repeated."""


def judge(body: bytes, *, models: frozenset[str], is_search_open: bool) -> Judged:
    """Check the call. Raises `CallRefused`.

    Works in pieces where possible, so that a thread that parses a large body lets others run in
    between.
    """
    if has_many_signs(body):
        message = f"The body has more than {SIGNS_MAX:,} brackets and separators."
        raise CallRefused(400, "invalid_request_error", message)
    model = model_of(body)
    require_model(model, models)
    refuse_fetches(body, is_search_open=is_search_open)
    refuse_tools(body)
    refuse_blocks(body)
    refuse_costs(body)
    digest = hashlib.blake2b(body, digest_size=16).digest()
    return Judged(model, estimated_cost(body), digest)


def _pieces(body: bytes) -> Iterator[bytes]:
    """The body, split after commas: nothing that is searched for contains one."""
    start = 0
    while start < len(body):
        comma = body.find(b",", start + PIECE_BYTES)
        end = len(body) if comma < 0 else comma + 1
        yield body[start:end]
        start = end


def model_of(body: bytes) -> str:
    """The model that a body asks for. Raises `CallRefused`."""
    try:
        model = msgspec.json.decode(body, type=_Asked).model
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise CallRefused(400, "invalid_request_error", _what_is_wrong(error)) from error
    # Only now, as the hook is given its values as objects: they are strings, all of them.
    if not _is_named_once(body) or len(model) > MODEL_NAME_MAX_CHARS:
        message = "The body must name one model, once."
        raise CallRefused(400, "invalid_request_error", message)
    return model


def _what_is_wrong(error: Exception) -> str:
    if field := _UNKNOWN_FIELD.search(str(error)):
        return f"The field {foreign(field[1], max_chars=60)} is not open to agents."
    return "The body is not a JSON object that names a model and no MCP servers."


def refuse_costs(body: bytes) -> None:
    """Raises `CallRefused` for tools that the service would carry out at an extra price, and for
    the caller's stored data there."""
    for piece in _pieces(body):
        for found in _DATED.finditer(piece):
            if found[1] not in _DATED_OPEN:
                message = f"The type {foreign(found[1], max_chars=60)} is not open to agents."
                raise CallRefused(403, "permission_error", message)
        if _HELD.search(piece):
            message = "Files and connections at the model's service are not open to agents."
            raise CallRefused(403, "permission_error", message)


def refuse_fetches(body: bytes, *, is_search_open: bool) -> None:
    """Raises `CallRefused` for URLs and tools that the model's service itself would fetch."""
    for piece in _pieces(body):
        if _FETCHED.search(piece) or (not is_search_open and _SEARCHED.search(piece)):
            message = "The model's service fetches nothing for this agent."
            raise CallRefused(403, "permission_error", message)
        # No client escapes letters like this, and the search would not have found the words.
        if rb"\u00" in piece and _ESCAPED_LETTER.search(piece.replace(rb"\\", b"")):
            message = "The body has plain letters in escaped form."
            raise CallRefused(400, "invalid_request_error", message)


class _Bounds(msgspec.Struct):
    """What limits the length of an answer whose client has left."""

    max_tokens: int = _WHOLE_ANSWER_MAX_TOKENS
    stream: bool = False


def estimated_cost(body: bytes) -> Usage:
    """Estimates a call that was sent, but whose client left before the answer reported its cost.

    The input is estimated from its size. A streamed answer ends when its reader leaves; one that is
    not streamed is probably written to its end, so its limit counts.
    """
    coded = [len(found[1]) for piece in _pieces(body) for found in _BASE64.finditer(piece)]
    input_tokens = (len(body) - sum(coded)) // _TOKEN_BYTES
    input_tokens += sum(max(_PICTURE_TOKENS, size // _DOCUMENT_TOKEN_BYTES) for size in coded)
    try:
        wanted = msgspec.json.decode(body, type=_Bounds)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        wanted = _Bounds()
    output_tokens = 0
    if not wanted.stream:
        output_tokens = min(max(0, wanted.max_tokens), _WHOLE_ANSWER_MAX_TOKENS)
    return Usage(input_tokens=input_tokens, output_tokens=output_tokens)


def _is_named_once(body: bytes) -> bool:
    names = 0

    def count(kind: type, value: Any) -> _Name:
        nonlocal names
        names += 1
        if names > 1:
            raise ValueError("once is enough")  # Not a million times.
        return _Name()

    try:
        msgspec.json.decode(body, type=_Named, dec_hook=count)
    except msgspec.ValidationError:
        return False
    return names == 1


def require_model(model: str, allowed: frozenset[str]) -> None:
    """Raises `CallRefused` unless it is one of these; an empty list allows any."""
    if allowed and model not in allowed:
        message = f"The model {foreign(model)} is not open to this turn."
        raise CallRefused(403, "permission_error", message)
