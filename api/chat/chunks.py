"""A turn's events -> OpenAI's chat completion chunks, as bytes.

Text deltas are nearly all of the traffic, so a chunk is a template cut in two, with the delta's
JSON string literal put between the halves: no decoding, no JSON library (0.12 µs against 6-14).

A stream is what OpenAI's is: blocks that begin with `data:`, and comments in blocks of their own.
Who asks for numbers gets that of its event with each chunk, as the SSE `id` in the block of its
data (an id without data breaks clients): whoever lost the stream comes back with the last one seen.

What the agent does on the way (thinking, tools) is never `tool_calls`: clients would try to run
those and loop. It goes to `reasoning_content`, into the answer's text, or nowhere, by setting.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from enum import Enum
from json.encoder import encode_basestring_ascii

from api.chain import AnswerHead
from api.chat.shapes import CompletionTokensDetails, CompletionUsage, PromptTokensDetails
from api.errors import error_body
from infra.runtime.settings import ToolDisplay
from infra.wire.answers import SubAgents, describe
from infra.wire.errors import AgClusterError, ErrorCode, TurnFailed, UnknownMessage
from infra.wire.events import (
    TurnEnded,
    Usage,
    decode_event,
    is_end,
    text_literal,
    thinking_literal,
)
from infra.wire.ids import TurnId
from infra.wire.states import TurnState

DONE = b"data: [DONE]\n\n"


def _place(ahead: int) -> str:
    if not ahead:
        return "next in line"
    return f"{ahead} turn{'s' if ahead > 1 else ''} ahead"


_QUIET = (b'{"type":"started"', b'{"type":"notice"')


def is_sight(payload: bytes) -> bool:
    """Whether the event settles a stream's status: the answer has begun, or ended."""
    return not payload.startswith(_QUIET)


class _Kind(Enum):
    TEXT = 1
    THINKING = 2
    TOOL = 3


class Transcript:
    """Sorts a turn's events into the two channels an OpenAI answer has, with the breaks between.

    `pieces` gives `(is_reasoning, literal)` pairs of JSON string literals; a text delta's literal
    passes untouched. Lines are broken where one channel changes between thinking, tool lines and
    text. (The paragraphs of the text itself are the agent's: it knows where a message ends.)
    """

    def __init__(self, display: ToolDisplay, *, head: AnswerHead | None = None) -> None:
        """`head` is told the answer's text as it is shown."""
        self._display = display
        self._head = head
        self._last: dict[bool, bytes] = {}
        """The newest literal of each channel, by `is_reasoning`."""
        self._kind: dict[bool, _Kind] = {}
        self._sub_agents = SubAgents()
        self.unknown = 0
        """Events of a type this version does not know, skipped."""

    def piece(self, payload: bytes) -> tuple[bool, bytes] | None:
        """What one event shows, if anything. End events show nothing here."""
        literal = text_literal(payload)
        if literal is not None:
            return self._shown(False, _Kind.TEXT, literal)
        literal = thinking_literal(payload)
        if literal is not None:
            if self._display is ToolDisplay.OFF:
                return None
            return self._shown(self._is_reasoning, _Kind.THINKING, literal)
        line = None if is_end(payload) else self._line(payload)
        if line is None or self._display is ToolDisplay.OFF:
            return None
        return self._shown(
            self._is_reasoning, _Kind.TOOL, encode_basestring_ascii(line + "\n").encode()
        )

    def note(self, line: str) -> bytes:
        """The literal of a line of our own among the reasoning."""
        return self._shown(True, _Kind.TOOL, encode_basestring_ascii(line + "\n").encode())[1]

    @property
    def _is_reasoning(self) -> bool:
        return self._display is ToolDisplay.REASONING

    def _shown(self, is_reasoning: bool, kind: _Kind, literal: bytes) -> tuple[bool, bytes]:
        if self._kind.get(is_reasoning) is not kind:
            if not literal.startswith(b'"\\n'):
                literal = self._break(is_reasoning, kind) + literal[1:]
            self._kind[is_reasoning] = kind
        if literal != b'""':
            self._last[is_reasoning] = literal
        if self._head is not None and not is_reasoning and not self._head.is_full:
            self._head.add(json.loads(literal))
        return is_reasoning, literal

    def _break(self, is_reasoning: bool, kind: _Kind) -> bytes:
        """The opening quote and the line breaks that part this piece from what stands before."""
        last = self._last.get(is_reasoning, b'""')
        if last == b'""':
            return b'"'
        if not last.endswith(b'\\n"'):
            return b'"\\n' if is_reasoning else b'"\\n\\n'
        # After tool lines the answer's own text begins a new paragraph.
        after_lines = self._kind.get(is_reasoning) is _Kind.TOOL and kind is not _Kind.TOOL
        return b'"\\n' if after_lines and not is_reasoning else b'"'

    def _line(self, payload: bytes) -> str | None:
        try:
            return describe(self._sub_agents.signed(decode_event(payload)))
        except UnknownMessage:
            self.unknown += 1
            return None


class ChunkFrames:
    """The chunks of one streamed answer."""

    def __init__(
        self,
        turn: TurnId,
        *,
        created: int,
        model: str,
        include_usage: bool,
        display: ToolDisplay,
        head: AnswerHead | None = None,
        is_numbered: bool = False,
    ) -> None:
        self._is_numbered = is_numbered
        # Between numbered blocks a comment has no blank line: once openai-python has seen an id, it
        # takes a blank line alone for an event, and its lack of data for broken JSON.
        self._comment_end = b"\n" if is_numbered else b"\n\n"
        self.ping = b": ping" + self._comment_end
        ids = f'"id":"{turn}","object":"chat.completion.chunk","created":{created}'
        self._base = f'data: {{{ids},"model":{json.dumps(model)},"system_fingerprint":null'.encode()
        self._include_usage = include_usage
        self._close = b',"usage":null}\n\n' if include_usage else b"}\n\n"
        opening = self._base + b',"choices":[{"index":0,"delta":{'
        self._content = opening + b'"content":'
        self._reasoning = opening + b'"reasoning_content":'
        self._tail = b'},"logprobs":null,"finish_reason":null}]' + self._close
        self._role = opening + b'"role":"assistant","content":""' + self._tail
        self._finish = opening + b'},"logprobs":null,"finish_reason":"'
        self._transcript = Transcript(display, head=head)

    def first(self, n: int = 0) -> bytes:
        """The chunk that opens every answer; `n` is the last event the client has seen before."""
        return self._mark(n) + self._role

    def skip(self, events: Iterable[bytes]) -> None:
        """What the client has seen before: it counts for what goes between it and the rest."""
        for payload in events:
            self._transcript.piece(payload)

    def render(self, events: Iterable[bytes], first: int) -> bytes:
        """The chunks of what some events show, joined; `first` is the number of the first.

        End events show nothing.
        """
        out: list[bytes] = []
        content, reasoning, tail = self._content, self._reasoning, self._tail
        piece, is_numbered = self._transcript.piece, self._is_numbered
        for n, payload in enumerate(events, first):
            if (shown := piece(payload)) is not None:
                if is_numbered:
                    out.append(b"id: %d\n" % n)
                out.append(reasoning if shown[0] else content)
                out.append(shown[1])
                out.append(tail)
        return b"".join(out)

    def queue_comment(self, ahead: int) -> bytes:
        """The place in the queue in a comment's form; a ping as well."""
        return f": queued, {_place(ahead)}".encode() + self._comment_end

    def queue_note(self, ahead: int, n: int) -> bytes:
        """A chunk that tells the place in the queue; `n` is the last event the client has seen."""
        literal = self._transcript.note(f"Waiting: {_place(ahead)}.")
        return self._mark(n) + self._reasoning + literal + self._tail

    def last(self, end: TurnEnded, n: int) -> bytes:
        """The chunks that close a good answer: the reason, the usage if asked for, `[DONE]`.

        `n` is the number of the end event.
        """
        mark = self._mark(n)
        out = mark + self._finish + end.finish_reason.value.encode() + b'"}]' + self._close
        if self._include_usage:
            usage = usage_of(end.usage).model_dump_json().encode()
            out += mark + self._base + b',"choices":[],"usage":' + usage + b"}\n\n"
        return out + mark + DONE

    def failure(self, error: AgClusterError, turn: TurnId, n: int) -> bytes:
        """The last event of a stream that broke after its 200; no `[DONE]` follows.

        The completion's id and the number of the last event seen stand with it, for coming back.
        """
        body = {"error": error_body(error), "id": turn, "starting_after": n}
        return self._mark(n) + b"data: %b\n\n" % json.dumps(body, separators=(",", ":")).encode()

    def _mark(self, n: int) -> bytes:
        """Where in the turn a block's data stands: its first line, if that is wanted."""
        return b"id: %d\n" % n if self._is_numbered else b""


def read_end(payload: bytes) -> TurnEnded:
    """The end event of a good turn. Raises `TurnFailed` for any other end."""
    end = decode_event(payload)
    assert isinstance(end, TurnEnded), "only an end event ends a turn"
    if end.state is TurnState.DONE and end.error is None:
        return end
    if end.error is not None:
        raise TurnFailed(
            end.error.message, code=end.error.code, retry_after_s=end.error.retry_after_s
        )
    cancelled = end.state is TurnState.CANCELLED
    raise TurnFailed("", code=ErrorCode.TURN_CANCELLED if cancelled else ErrorCode.AGENT_FAILED)


def usage_of(usage: Usage) -> CompletionUsage:
    """OpenAI's words for the tokens of a turn."""
    return CompletionUsage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.output_tokens,
        total_tokens=usage.prompt_tokens + usage.output_tokens,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=usage.cache_read_input_tokens),
        completion_tokens_details=CompletionTokensDetails(reasoning_tokens=usage.thinking_tokens),
    )
