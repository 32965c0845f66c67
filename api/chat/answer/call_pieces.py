"""Calls of the client's functions in OpenAI's forms: in pieces for a stream, or whole. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from api.chat.answer.shapes import AnswerToolCall, CalledFunction
from infra.wire.events import ClientCall

PIECE_CHARS = 4096
"""Arguments come in pieces of this size."""


class CallPieces:
    """The deltas of the calls of one streamed answer, as JSON without their braces."""

    def __init__(self) -> None:
        self.is_legacy = False
        """Whether a call was told in the older form."""
        self._count = 0

    def of(self, call: ClientCall) -> list[bytes]:
        """The deltas of the next call: its id and name, then its arguments."""
        index, self._count = self._count, self._count + 1
        self.is_legacy = self.is_legacy or call.is_legacy
        deltas = _legacy(call) if call.is_legacy else _numbered(call, index)
        return [json.dumps(delta, separators=(",", ":")).encode()[1:-1] for delta in deltas]


def called(call: ClientCall) -> CalledFunction:
    """The function that a call names, and its arguments."""
    return CalledFunction(name=call.name, arguments=call.arguments)


def tool_call(call: ClientCall) -> AnswerToolCall:
    """A call in a whole answer."""
    return AnswerToolCall(id=call.id, function=called(call))


def _numbered(call: ClientCall, index: int) -> Iterator[dict[str, Any]]:
    head = {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}}
    yield {"tool_calls": [{"index": index, **head}]}
    for piece in _pieces(call.arguments):
        yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def _legacy(call: ClientCall) -> Iterator[dict[str, Any]]:
    yield {"function_call": {"name": call.name, "arguments": ""}}
    for piece in _pieces(call.arguments):
        yield {"function_call": {"arguments": piece}}


def _pieces(arguments: str) -> Iterator[str]:
    for begin in range(0, len(arguments), PIECE_CHARS):
        yield arguments[begin : begin + PIECE_CHARS]
