"""How a reply looks on the wire of the Messages API: events of a stream, or one object. Pure."""

from __future__ import annotations

import itertools
import json
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from json.encoder import encode_basestring_ascii
from typing import Any, NamedTuple

from infra.scripted_model.replies import Block, Raw, Reply, Text, Thinking, ToolUse

_ERRORS: Mapping[int, tuple[str, str]] = {
    400: ("invalid_request_error", "prompt is too long: 250000 tokens > 200000 maximum"),
    401: ("authentication_error", "invalid x-api-key"),
    403: ("permission_error", "Your API key does not have permission to use this resource"),
    404: ("not_found_error", "model: not found"),
    413: ("request_too_large", "Request exceeds the maximum size"),
    429: ("rate_limit_error", "This request would exceed your account's rate limit"),
    500: ("api_error", "Internal server error"),
    529: ("overloaded_error", "Overloaded"),
}
_SIGNATURE = "c2NyaXB0ZWQ="
_INPUT_CHARS = 24
"""A tool's input comes in pieces of this size."""

_TEXT_DELTA = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,'
    b'"delta":{"type":"text_delta","text":%b}}\n\n'
)

_numbers = itertools.count(1)
_RUN = secrets.token_hex(3)
"""Keeps ids apart when the model restarts in the middle of a conversation."""


def new_id(prefix: str) -> str:
    return f"{prefix}_{_RUN}{next(_numbers):06d}"


def error_object(status: int, *, message: str | None = None) -> dict[str, str]:
    """The inner object of an error."""
    kind, usual = _ERRORS.get(status, ("api_error", f"scripted error {status}"))
    return {"type": kind, "message": message or usual}


def error_body(status: int, request_id: str, *, message: str | None = None) -> dict[str, Any]:
    """The body of an HTTP error."""
    error = error_object(status, message=message)
    return {"type": "error", "error": error, "request_id": request_id}


def event(kind: str, **fields: Any) -> bytes:
    """One server-sent event."""
    data = json.dumps({"type": kind, **fields}, separators=(",", ":"))
    return f"event: {kind}\ndata: {data}\n\n".encode()


class Part(NamedTuple):
    """Some bytes of a stream."""

    data: bytes
    is_delta: bool
    is_block_end: bool = False


class Writer:
    """Writes one reply to one request."""

    def __init__(self, reply: Reply, *, model: str, input_tokens: int) -> None:
        self._reply = reply
        self._model = model
        self._input_tokens = input_tokens
        self._id = new_id("msg")

    def parts(self) -> Iterator[Part]:
        """The reply as the events of a stream."""
        yield Part(self._opening(), is_delta=False)
        for index, block in enumerate(self._reply.blocks):
            start = event("content_block_start", index=index, content_block=_empty(block))
            yield Part(start, is_delta=False)
            for delta in _deltas(index, block):
                yield Part(delta, is_delta=True)
            stop = event("content_block_stop", index=index)
            yield Part(stop, is_delta=False, is_block_end=True)
        yield Part(self._ending(), is_delta=False)

    def whole(self) -> dict[str, Any]:
        """The reply as one object."""
        content = [_full(block) for block in self._reply.blocks]
        return self._message(content, stop=self._reply.stop, usage=self._usage())

    def _opening(self) -> bytes:
        message = self._message([], stop=None, usage={**self._usage(), "output_tokens": 1})
        return event("message_start", message=message) + event("ping")

    def _ending(self) -> bytes:
        stopped = {"stop_reason": self._reply.stop, "stop_sequence": None}
        usage = self._usage()
        if self._reply.tokens is None:
            usage = {"output_tokens": usage["output_tokens"]}
        return event("message_delta", delta=stopped, usage=usage) + event("message_stop")

    def _message(
        self, content: list[dict[str, Any]], *, stop: str | None, usage: Mapping[str, int]
    ) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": content,
            "stop_reason": stop,
            "stop_sequence": None,
            "usage": usage,
        }

    def billed(self, deltas: int | None = None) -> dict[str, int]:
        """What the message costs: as it is told, or when it broke off after so many deltas."""
        told = asdict(self._reply.tokens) if self._reply.tokens else self._usage()
        if deltas is not None:
            told |= {"output_tokens": max(1, deltas)}
            told.pop("thinking_tokens", None)
        return told

    def _usage(self) -> dict[str, Any]:
        if (tokens := self._reply.tokens) is not None:
            told: dict[str, Any] = asdict(tokens)
            told["output_tokens_details"] = {"thinking_tokens": told.pop("thinking_tokens")}
            return told
        return {
            "input_tokens": self._input_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": max(1, sum(_size(block) for block in self._reply.blocks)),
        }


def text_delta(index: int, said: str) -> bytes:
    """Nearly all that is ever sent, so it is spelled out by hand."""
    return _TEXT_DELTA % (index, encode_basestring_ascii(said).encode())


def _deltas(index: int, block: Block) -> Iterator[bytes]:
    match block:
        case Text(pieces):
            for piece in pieces:
                yield text_delta(index, piece)
        case Thinking(pieces):
            for piece in pieces:
                yield _delta(index, type="thinking_delta", thinking=piece)
            yield _delta(index, type="signature_delta", signature=_SIGNATURE)
        case ToolUse():
            for part in _input_parts(block):
                yield _delta(index, type="input_json_delta", partial_json=part)
        case Raw(_, deltas):
            for delta in deltas:
                yield _delta(index, **delta)


def _delta(index: int, **delta: Any) -> bytes:
    return event("content_block_delta", index=index, delta=delta)


def _input_parts(call: ToolUse) -> list[str]:
    raw = json.dumps(call.input)
    return ["", *(raw[at : at + _INPUT_CHARS] for at in range(0, len(raw), _INPUT_CHARS))]


def _size(block: Block) -> int:
    """How many deltas a block has: what the scripted model calls its tokens."""
    match block:
        case Text(pieces):
            return len(pieces)
        case Thinking(pieces):
            return len(pieces) + 1
        case ToolUse():
            return len(_input_parts(block))
        case Raw(_, deltas):
            return len(deltas)


def _empty(block: Block) -> dict[str, Any]:
    match block:
        case Text(opening=opening):
            return {"type": "text", "text": opening}
        case Thinking():
            return {"type": "thinking", "thinking": "", "signature": ""}
        case ToolUse(name):
            return {"type": "tool_use", "id": new_id("toolu"), "name": name, "input": {}}
        case Raw(raw):
            return dict(raw)


def _full(block: Block) -> dict[str, Any]:
    match block:
        case Text(pieces, opening):
            return {"type": "text", "text": opening + "".join(pieces)}
        case Thinking(pieces):
            return {"type": "thinking", "thinking": "".join(pieces), "signature": _SIGNATURE}
        case ToolUse(name, given):
            return {"type": "tool_use", "id": new_id("toolu"), "name": name, "input": dict(given)}
        case Raw(raw):
            return dict(raw)
