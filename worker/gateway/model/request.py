"""What an agent asks of the model: its request judged, whole, before a byte of it goes upstream.

A body is read to its end first, since its model has to be known. It is never built in memory as
objects: a few megabytes of brackets would become hundreds. A name that stands twice in it is
refused, as two readers may each believe another one. So is what would have the model's service
fetch for the agent: that is a way out past every egress policy, and no tool of ours needs it.

What is open is listed: fields, kinds of tools and blocks (`worker.gateway.model.blocks`), betas
(`worker.gateway.model.headers`). The rest of
the Messages API costs a caller what no budget of tokens sees (containers that run code, a faster or
a local service, other models that step in), or reaches what is theirs there (their files).
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
from infra.wire.foreign import foreign
from worker.gateway.model.blocks import DATED_TOOLS, refuse_blocks, refuse_tools
from worker.gateway.model.refusals import CallRefused, too_large

MESSAGES = "/v1/messages"
COUNT_TOKENS = "/v1/messages/count_tokens"

MODEL_NAME_MAX_CHARS = 128
PIECE_BYTES = 256 * 1024
_TARGETS = frozenset(
    path + query for path in (MESSAGES, COUNT_TOKENS) for query in ("", "?beta=true")
)
# In a text the quotes would be escaped, so it may hold these words.
_BLANK = rb"[ \t\r\n]*"
_TYPE = rb'"type"' + _BLANK + rb":" + _BLANK
_DATED = re.compile(_TYPE + rb'"([A-Za-z0-9_.-]*?)[_-]?20[0-9]{6}"')
"""What the service itself carries out has a type with a date: tools, edits of the context."""
_DATED_OPEN = frozenset(
    name.encode()
    for name in DATED_TOOLS
    | {
        "clear_thinking",  # Edits of the context: what is left of it is metered as any.
        "clear_tool_uses",
        "compact",
    }
)
# With one beginning: two of them would be looked for at each byte.
_HELD = re.compile(
    rb'"(?:file_id"' + _BLANK + b":" + _BLANK + rb'"|' + _TYPE[1:] + rb'"mcp_toolset")'
)
"""What the caller has at the service already: files, connections."""
_FETCHED = re.compile(_TYPE + rb'"(?:url"|web_fetch_(?!tool_))')
_SEARCHED = re.compile(_TYPE + rb'"web_search_(?!tool_)')
_ESCAPED_LETTER = re.compile(rb"\\u00(?:3[0-9]|4[1-9a-fA-F]|5[0-9aAfF]|6[1-9a-fA-F]|7[0-9aA])")


# The letters of a picture or document are not read as text: it costs about so much.
_BASE64 = re.compile(rb'"data"[ \t\r\n]*:[ \t\r\n]*"([A-Za-z0-9+/]{1024,}={0,2})"')
_PICTURE_TOKENS = 1_600
_DOCUMENT_TOKEN_BYTES = 100
_TOKEN_BYTES = 4
_WHOLE_ANSWER_MAX_TOKENS = 21_333
"""The service's own clients refuse to wait for a longer one that is not streamed."""


Unread = msgspec.Raw
"""Passed over; nothing of it is built."""
_UNKNOWN_FIELD = re.compile(r"unknown field `(.*)`", re.DOTALL)


class _Asked(msgspec.Struct, forbid_unknown_fields=True):
    """The fields that are open to agents: what a call says, and how long and how it is answered.

    None of them is built but the model's name.
    """

    model: str
    mcp_servers: None = None
    """The upstream would connect to them: a way out that no egress policy sees."""
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
    """A model's name, told to the decoder's hook each time it stands there."""


class _Named(msgspec.Struct):
    model: _Name


def check_target(request: web.BaseRequest) -> None:
    """Raises `CallRefused` for everything but the two calls an agent needs.

    Byte for byte as the CLI writes them: no other spelling of a path, no whole URL, no query.
    """
    if request.method != "POST" or request.raw_path not in _TARGETS:
        raise CallRefused(403, "permission_error", "This path is not open to agents.")
    if "upgrade" in request.headers:
        raise CallRefused(403, "permission_error", "This connection cannot become another one.")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise CallRefused(415, "invalid_request_error", "A compressed request is not read here.")


def is_counted(request: web.BaseRequest) -> bool:
    """Counting tokens costs none."""
    return not request.raw_path.startswith(COUNT_TOKENS)


async def read_body(request: web.BaseRequest, *, max_bytes: int, silence_s: float) -> bytes:
    """The whole body. Raises `CallRefused`, also when the agent falls silent in the middle."""
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
    """What is kept of a call that is let through, when its body has been sent."""

    model: str
    estimate: Usage
    """What it costs if it is left before its answer has told."""
    digest: bytes
    """Stands for the call when it is repeated."""


def judge(body: bytes, *, models: frozenset[str], is_search_open: bool) -> Judged:
    """Whether the call may be made. Raises `CallRefused`.

    Piece by piece where it can be: a thread that reads a large body lets others run in between.
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
    """The body, cut behind commas: nothing that is looked for has one in it."""
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
    """Raises `CallRefused` for tools that the service would carry out at a price of their own, and
    for what the caller keeps there."""
    for piece in _pieces(body):
        for found in _DATED.finditer(piece):
            if found[1] not in _DATED_OPEN:
                message = f"The type {foreign(found[1], max_chars=60)} is not open to agents."
                raise CallRefused(403, "permission_error", message)
        if _HELD.search(piece):
            message = "Files and connections at the model's service are not open to agents."
            raise CallRefused(403, "permission_error", message)


def refuse_fetches(body: bytes, *, is_search_open: bool) -> None:
    """Raises `CallRefused` for URLs and tools that the model's service itself would follow."""
    for piece in _pieces(body):
        if _FETCHED.search(piece) or (not is_search_open and _SEARCHED.search(piece)):
            message = "The model's service fetches nothing for this agent."
            raise CallRefused(403, "permission_error", message)
        # No client writes letters so, and what they spell would not have been found.
        if rb"\u00" in piece and _ESCAPED_LETTER.search(piece.replace(rb"\\", b"")):
            message = "The body has plain letters in escaped form."
            raise CallRefused(400, "invalid_request_error", message)


class _Bounds(msgspec.Struct):
    """What decides how long an answer becomes that nobody waits for."""

    max_tokens: int = _WHOLE_ANSWER_MAX_TOKENS
    stream: bool = False


def estimated_cost(body: bytes) -> Usage:
    """What a call costs that was sent and then left before its answer told: an estimate.

    The input by its size. A streamed answer ends with its reader; one that is not is likely written
    to its end, so its bound counts.
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
    """Raises `CallRefused` unless it is one of these; none listed: any."""
    if allowed and model not in allowed:
        message = f"The model {foreign(model)} is not open to this turn."
        raise CallRefused(403, "permission_error", message)
