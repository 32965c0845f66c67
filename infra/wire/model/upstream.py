"""Translates between the Messages API and the contract: its failures and stop reasons to ours, our
blocks to its. Pure.

Used by the programs that talk to the upstream: the agent (through its CLI), the gateway that
meters, and the side lane. Users get our own sentences, by code. Only if the upstream found the
request itself faulty, they get the upstream's words, without host names and paths.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from infra.wire.errors import ErrorCode
from infra.wire.events import EndReason, TurnError, Usage
from infra.wire.text.words import SENTENCES, Case
from infra.wire.turns import (
    CallBlock,
    ContentBlock,
    DocumentBlock,
    FileBlock,
    ResultBlock,
    TextBlock,
)

OPENING = "[The conversation begins with the assistant's words.]"
"""Precedes a history that starts with the assistant, because the Messages API wants a user
first."""

STATUS_OF_KIND: Mapping[str, int] = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""The status that an error inside a stream would have had."""

_BY_STATUS: Mapping[int, ErrorCode] = {
    400: ErrorCode.INVALID_REQUEST,
    401: ErrorCode.INVALID_KEY,
    402: ErrorCode.INSUFFICIENT_QUOTA,
    403: ErrorCode.PERMISSION_DENIED,
    404: ErrorCode.MODEL_NOT_FOUND,
    408: ErrorCode.UPSTREAM_UNREACHABLE,
    413: ErrorCode.CONTEXT_TOO_LONG,
    429: ErrorCode.RATE_LIMITED,
    502: ErrorCode.UPSTREAM_UNREACHABLE,
    503: ErrorCode.OVERLOADED,
    504: ErrorCode.UPSTREAM_UNREACHABLE,
    529: ErrorCode.OVERLOADED,
}
STOP_REASONS: Mapping[str, EndReason] = {
    "end_turn": EndReason.DONE,
    "stop_sequence": EndReason.DONE,
    "tool_use": EndReason.DONE,
    "max_tokens": EndReason.LENGTH,
    "model_context_window_exceeded": EndReason.LENGTH,
    "refusal": EndReason.REFUSED,
    # The service paused its own tools or shortened the conversation. The answer is incomplete; the
    # model would have continued if asked.
    "pause_turn": EndReason.LENGTH,
    "compaction": EndReason.LENGTH,
}
"""Our end reason for every stop reason of the Messages API."""

_FIGURES = tuple(Usage.model_fields)
_LONG = re.compile(r"prompt is too long|context (?:window|length)", re.I)
_LARGE = re.compile(r"too long|too large", re.I)
_MEDIA = re.compile(r"image|picture|document|pdf", re.I)
"""If one of these is too large, the conversation fits without it."""

_PLACES = re.compile(r"https?://\S+|(?<![\w/])/(?:[\w.\-]+/)+[\w.\-]*|\b[\w\-]+\.agcluster\b")
_DETAIL_MAX_CHARS = 300


def code_of(status: int, prose: str = "") -> ErrorCode:
    """The code for an HTTP status. `prose` tells a request that is too long from a faulty one."""
    if status in (400, 413) and _is_too_long(prose):
        return ErrorCode.CONTEXT_TOO_LONG
    default = ErrorCode.UPSTREAM_ERROR if status >= 500 else ErrorCode.INVALID_REQUEST
    return _BY_STATUS.get(status, default)


def upstream_error(
    code: ErrorCode, prose: str = "", *, retry_after_s: float | None = None
) -> TurnError:
    """The error, in words for the user."""
    message = SENTENCES[code]
    if code is ErrorCode.INVALID_REQUEST:
        message = f"{Case.UPSTREAM_REFUSED.sentence} {_without_places(prose)}".rstrip()
    return TurnError(code=code, message=message, retry_after_s=retry_after_s)


def usage_figures(usage: object) -> dict[str, int]:
    """The figures of `Usage` in a message's `usage`. Values that are not counts are left out."""
    if not isinstance(usage, Mapping):
        return {}
    told = {name: usage[name] for name in _FIGURES if _is_count(usage.get(name))}
    details = usage.get("output_tokens_details")
    if isinstance(details, Mapping) and _is_count(details.get("thinking_tokens")):
        told["thinking_tokens"] = details["thinking_tokens"]
    return told


def content_block(block: ContentBlock) -> dict[str, Any]:
    """A block in the form of the Messages API.

    A result keeps its function's name, which that API does not know: the sender pairs it with its
    call first.
    """
    if isinstance(block, TextBlock):
        return {"type": "text", "text": block.text}
    if isinstance(block, CallBlock):
        given = json.loads(block.arguments)
        return {"type": "tool_use", "id": block.id, "name": block.name, "input": given}
    if isinstance(block, ResultBlock):
        told = [content_block(b) for b in block.content if not _is_blank(b)]
        named = {"name": block.name} if block.name else {}
        return {"type": "tool_result", "tool_use_id": block.call, "content": told, **named}
    if isinstance(block, FileBlock):
        return {"type": "text", "text": _shown(block)}
    source = {"type": "base64", "media_type": block.media_type, "data": block.data}
    if isinstance(block, DocumentBlock) and block.filename is not None:
        return {"type": "document", "source": source, "title": block.filename}
    return {"type": block.type, "source": source}


def _shown(file: FileBlock) -> str:
    """Where there is no agent, and so no workspace: its text, or that it was left out."""
    if file.url is not None:
        return f"[The file at {file.url}]"
    name = file.filename or "without a name"
    if file.data is not None:
        with suppress(ValueError):  # Not base64, or not UTF-8.
            text = base64.b64decode(file.data).decode()
            if "\0" not in text:
                return f"[File {name}]\n{text}"
    return f"[Left out here: the file {name}]"


def end_reason_of(stop_reason: str | None) -> EndReason:
    """Our end reason for a `stop_reason`. An unknown one counts as a finished answer."""
    return STOP_REASONS.get(stop_reason or "", EndReason.DONE)


def _is_blank(block: ContentBlock) -> bool:
    return isinstance(block, TextBlock) and not block.text.strip()


def _is_too_long(prose: str) -> bool:
    is_large = _LARGE.search(prose) is not None and _MEDIA.search(prose) is None
    return is_large or _LONG.search(prose) is not None


def _is_count(figure: object) -> bool:
    return isinstance(figure, int) and not isinstance(figure, bool) and figure >= 0


def _without_places(prose: str) -> str:
    shown = "".join(c if c.isprintable() else " " for c in _PLACES.sub("…", prose))
    line = " ".join(shown.split())
    return line if len(line) <= _DETAIL_MAX_CHARS else line[: _DETAIL_MAX_CHARS - 1].rstrip() + "…"
