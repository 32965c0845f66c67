"""The Messages API for the side lane: a turn as a request, the streamed answer as events.

Pure. Agents use the SDK for this; a side turn is one call, and its answer is text, or the input of
the only tool (`infra.wire.form.tool`) if it has to be JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from infra.wire.errors import ErrorCode
from infra.wire.events import Event, TextDelta, ThinkingDelta, TurnEnded, TurnError, Usage
from infra.wire.form.tool import FORM_TOOL, input_schema, tool_description
from infra.wire.history.paired import Role, as_text, paired
from infra.wire.model.upstream import (
    OPENING,
    STATUS_OF_KIND,
    code_of,
    content_block,
    end_reason_of,
    upstream_error,
    usage_figures,
)
from infra.wire.options import ClientTool, ClientTools, TurnOptions
from infra.wire.states import TurnState
from infra.wire.text.characters import Pieces
from infra.wire.turns import CallBlock, ContentBlock, HistoryMessage, TextBlock, TurnRequest
from worker.side.thinking import thinking_of, thinking_room

Json = dict[str, Any]
"""A JSON object of the Messages API, for which we have no types."""

_LINE_MAX_BYTES = 1024 * 1024
_SAMPLING = frozenset({"temperature", "top_p"})
EXTRAS = _SAMPLING | {"thinking", "output_config"}
"""What some models refuse."""
INPUT_MAX_CHARS = 1024 * 1024
"""The longest input of a tool call."""


def request_body(
    request: TurnRequest, *, max_tokens: int, budget_tokens: int | None = None
) -> Json:
    """The turn as a request. `max_tokens` limits its answer, unless the client set a limit.

    `budget_tokens` always limits it, because nothing cuts off a side turn's answer. Where the model
    thinks, its limit includes the thoughts: the text has to be limited by its reader, too.
    """
    answer_max = request.turn_options.max_tokens or max_tokens
    left = None if budget_tokens is None else budget_tokens - answer_max
    thinking = thinking_of(request.model, request.turn_options, left_tokens=left)
    answer_max += thinking_room(thinking)
    if budget_tokens is not None:
        answer_max = max(1, min(answer_max, budget_tokens))
    body: Json = {
        "model": request.model,
        "max_tokens": answer_max,
        "stream": True,
        "messages": _messages(request),
    }
    body |= _sampling(request.turn_options) | thinking
    if "thinking" in body:  # Then the model takes no other.
        body = {name: value for name, value in body.items() if name not in _SAMPLING}
    if request.system_prompt:
        body["system"] = request.system_prompt
    if form := request.turn_options.answer_form:
        tool = {"description": tool_description(form), "input_schema": input_schema(form)}
        body["tools"] = [{"name": FORM_TOOL, **tool}]
        only = {"type": "tool", "name": FORM_TOOL, "disable_parallel_tool_use": True}
        body["tool_choice"] = only
    if functions := request.turn_options.client_tools:
        body["tools"] = [*body.get("tools", ()), *map(_function, functions.tools)]
        body["tool_choice"] = _choice(functions, has_form=form is not None)
    return body


def without_extras(body: Json) -> Json:
    """The request without what some models refuse."""
    return {name: value for name, value in body.items() if name not in EXTRAS}


def _sampling(options: TurnOptions) -> Json:
    """The Messages API takes temperatures up to 1, one of the two, and no blank sequences."""
    chosen: Json = {}
    if (temperature := options.sampling.temperature) is not None:
        chosen["temperature"] = min(temperature, 1.0)
    elif options.sampling.top_p is not None:
        chosen["top_p"] = options.sampling.top_p
    if options.answer_form is None and (stop := [one for one in options.stop if one.strip()]):
        chosen["stop_sequences"] = stop
    return chosen


def _function(tool: ClientTool) -> Json:
    schema = json.loads(tool.parameters)
    return {"name": tool.name, "description": tool.description, "input_schema": schema}


def _choice(functions: ClientTools, *, has_form: bool) -> Json:
    how = {"disable_parallel_tool_use": True} if not functions.is_parallel else {}
    # An answer in a form is a call too.
    return {"type": "any" if functions.is_required or has_form else "auto", **how}


def refusal(status: int, raw: bytes, *, retry_after_s: float | None) -> TurnError:
    """The error in an answer that is not a stream, from its status and body."""
    try:
        told = json.loads(raw)
    except ValueError:
        told = None
    error = told.get("error") if isinstance(told, dict) else None
    prose = _text(error, "message")
    return upstream_error(code_of(status, prose), prose, retry_after_s=retry_after_s)


@dataclass
class SideCallMade:
    """A tool call that the model makes."""

    id: str
    name: str
    pieces: list[str] = field(default_factory=list)

    @property
    def input(self) -> str:
        """The JSON that was given so far."""
        return "".join(self.pieces)


class AnswerStream:
    """Reads a streamed answer, in pieces of any size."""

    def __init__(self) -> None:
        self._rest = b""
        self._text, self._thinking = Pieces(), Pieces()
        self._figures: dict[str, int] = {}
        self.calls: list[SideCallMade] = []
        """The tool calls in the answer."""
        self._input_chars = 0
        self._stop_reason: str | None = None
        self._is_whole = False
        self._error: TurnError | None = None

    @property
    def usage(self) -> Usage:
        """The usage known so far."""
        return Usage(**self._figures)

    @property
    def is_over(self) -> bool:
        """Whether the answer is complete, even if its body has not ended."""
        return self._is_whole or self._error is not None

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """The deltas in these bytes. Whatever follows an error or the end is ignored."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > _LINE_MAX_BYTES:
            self._error = upstream_error(ErrorCode.UPSTREAM_ERROR)
            self._rest = b""
        for line in lines:
            # The event's name is in its data too.
            if line.startswith(b"data:") and not self.is_over:
                yield from self._read(line[5:])

    def ended(self) -> TurnEnded:
        """How the answer ended, after its last bytes."""
        error = self._error
        if error is None and not self._is_whole:
            error = upstream_error(ErrorCode.UPSTREAM_ERROR)
        if error is not None:
            return TurnEnded(state=TurnState.FAILED, usage=self.usage, error=error)
        finish = end_reason_of(self._stop_reason)
        return TurnEnded(state=TurnState.DONE, usage=self.usage, end_reason=finish)

    def _read(self, data: bytes) -> Iterator[Event]:
        try:
            told = json.loads(data)
        except ValueError:
            self._error = upstream_error(ErrorCode.UPSTREAM_ERROR)
            return
        match told:
            case {
                "type": "content_block_delta",
                "delta": {"type": "text_delta", "text": str(piece)},
            }:
                if text := self._text.add(piece):
                    yield TextDelta(text=text)
            case {
                "type": "content_block_delta",
                "delta": {"type": "thinking_delta", "thinking": str(piece)},
            }:
                if text := self._thinking.add(piece):
                    yield ThinkingDelta(text=text)
            case {
                "type": "content_block_start",
                "content_block": {"type": "tool_use", "id": str(id), "name": str(name)},
            }:
                self.calls.append(SideCallMade(id, name))
            case {"type": "content_block_delta", "delta": {"partial_json": str(piece)}}:
                self._take_input(piece)
            case {"type": "content_block_stop"}:
                if text := self._text.end():
                    yield TextDelta(text=text)
                self._thinking.forget()
            case {"type": "message_start", "message": dict(message)}:
                self._count(message.get("usage"))
            case {"type": "message_delta", "delta": dict(delta)}:
                self._stop_reason = _text(delta, "stop_reason") or None
                self._count(told.get("usage"))
            case {"type": "message_stop"}:
                self._is_whole = True
            case {"type": "error", "error": dict(error)}:
                status = STATUS_OF_KIND.get(_text(error, "type"), 500)
                prose = _text(error, "message")
                self._error = upstream_error(code_of(status, prose), prose)

    def _take_input(self, piece: str) -> None:
        if self.calls:
            self.calls[-1].pieces.append(piece)
        self._input_chars += len(piece)
        if self._input_chars > INPUT_MAX_CHARS:
            self._error = upstream_error(ErrorCode.UPSTREAM_ERROR)

    def _count(self, usage: object) -> None:
        """Later figures replace earlier ones, because the API counts up."""
        self._figures |= usage_figures(usage)


def _messages(request: TurnRequest) -> Sequence[Json]:
    """All messages, the prompt last; neighbours of the same role are joined."""
    # The Messages API takes calls and results only together with tools.
    shown = _as_it_is if request.turn_options.client_tools else as_text
    joined: list[tuple[Role, list[Json]]] = []
    for message in [*request.history, HistoryMessage(role="user", content=request.prompt)]:
        role = message.role
        blocks = [block for one in message.content for block in shown(one)]
        content = [content_block(b) for b in blocks if _is_sayable(b, role)]
        if not content:
            continue
        if joined and joined[-1][0] == role:
            joined[-1][1].extend(content)
        else:
            joined.append((role, content))
    if joined and joined[0][0] == "assistant":
        joined.insert(0, ("user", [{"type": "text", "text": OPENING}]))
    return [{"role": role, "content": content} for role, content in paired(joined)]


def _as_it_is(block: ContentBlock) -> tuple[ContentBlock, ...]:
    return (block,)


def _is_sayable(block: ContentBlock, role: str) -> bool:
    """The Messages API accepts no empty text, and only text and calls from an assistant."""
    if isinstance(block, TextBlock):
        return bool(block.text.strip())
    return role == "user" or isinstance(block, CallBlock)


def _text(holder: object, name: str) -> str:
    value = holder.get(name) if isinstance(holder, Mapping) else None
    return value if isinstance(value, str) else ""
