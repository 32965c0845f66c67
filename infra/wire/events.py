"""The events of a turn, as the agent reports them.

The agent numbers them from 1 without gaps. The number is the stream id in the turn log, so Redis
itself refuses duplicates. An event's bytes are created once, by the agent (or by the worker for an
end that it has to declare), and travel unchanged to the relay. Nearly all of the traffic is text
deltas, so these have one canonical encoding; the relay splices its JSON string literal into a chunk
without decoding it.
"""

from __future__ import annotations

import re
from enum import StrEnum
from json.encoder import encode_basestring_ascii
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from infra.wire.base import Message, decode
from infra.wire.errors import ErrorCode, MalformedMessage, UnknownMessage
from infra.wire.files.shown import ArtifactDisplay
from infra.wire.ids import FileId, SaidSession
from infra.wire.states import TurnState


class Usage(Message):
    """Tokens of one turn, over all its model calls. Each token counts in exactly one of the first
    four."""

    input_tokens: int = 0
    """Input that was neither read from a cache nor written to one."""
    output_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    thinking_tokens: int = 0
    """The part of the output that was thinking, if the upstream reports it."""

    @property
    def total_input_tokens(self) -> int:
        """All input, cached or not."""
        return self.input_tokens + self.cache_creation_input_tokens + self.cache_read_input_tokens

    @property
    def spent_tokens(self) -> int:
        """What counts against a budget: everything except what was read from a cache."""
        return self.input_tokens + self.output_tokens + self.cache_creation_input_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            **{name: getattr(self, name) + getattr(other, name) for name in Usage.model_fields}
        )


EXCERPT_MAX_CHARS = 2000
"""Maximum number of characters of a tool's output that an event carries."""


class EndReason(StrEnum):
    """Why the answer of a turn that is done ended where it does."""

    DONE = "done"
    """The model finished its answer."""
    CALLS = "calls"
    """The agent waits for the results of the client's functions that it has called."""
    LENGTH = "length"
    """A limit was reached: of tokens, of the model's context, or of steps."""
    REFUSED = "refused"
    """The model, or its service, declined to answer."""


class TurnError(Message):
    """Why a turn failed, in words for the user. Never contains a key, a host name or a path."""

    code: ErrorCode
    message: str
    retry_after_s: float | None = None


class TurnStarted(Message):
    """The agent passed the turn to the model. Sent by: agent, once, always number 1."""

    type: Literal["started"] = "started"
    sdk_session: SaidSession
    model: str
    has_form: bool = False
    """Whether the turn's text is a JSON object, with which nothing else may be mixed."""


class TextDelta(Message):
    """New text of the answer, as the model produced it. Sent by: agent, often."""

    type: Literal["text"] = "text"
    text: str


class ThinkingDelta(Message):
    """New text of the model's thinking. The relay shows it as reasoning or drops it.

    Sent by: agent.
    """

    type: Literal["thinking"] = "thinking"
    text: str


class ToolCall(Message):
    """The agent called a tool. `summary` is one readable line (the command, the path) without the
    tool's name; it may be empty.

    `parent` is the call that started the sub-agent which made this call, if any.
    """

    type: Literal["tool_call"] = "tool_call"
    id: str
    name: str
    summary: str
    parent: str | None = None


class ToolResult(Message):
    """The result of a tool call: one readable line, and the beginning of what the tool printed."""

    type: Literal["tool_result"] = "tool_result"
    id: str
    name: str
    summary: str
    is_error: bool = False
    parent: str | None = None
    excerpt: Annotated[str, Field(max_length=EXCERPT_MAX_CHARS)] | None = None
    """May have several lines and hold anything that a program printed; None if there is nothing to
    read."""


class ClientCall(Message):
    """The agent calls one of the client's functions, and the turn ends with that. Sent by: agent,
    after the text of the answer, once for each call; the end then says `EndReason.CALLS`.

    The client runs the function and sends the result with its next request.
    """

    type: Literal["client_call"] = "client_call"
    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    arguments: str
    """A JSON object, checked against the function's schema by the agent."""
    is_legacy: bool = False
    """The client expects it in OpenAI's older form, `function_call`."""


class Notice(Message):
    """Something that a waiting user wants to know, such as a retry upstream or a compaction. Shown
    as reasoning."""

    type: Literal["notice"] = "notice"
    text: str


class Artifact(Message):
    """A file that the agent made or changed in a turn, as it was at the turn's end.

    It has no link: the API makes one when it shows the answer, so no record holds a valid link.
    """

    file: FileId
    path: str
    """In the workspace, for people: characters that nobody sees are replaced, and a mark is added
    then."""
    bytes: int
    media_type: str
    """By its bytes as far as they say it (`infra.wire.files.kinds`)."""
    expires_ms: int
    """When the file store lets it go (Unix ms)."""


class TurnFiles(Message):
    """What became of the files that a turn made or changed."""

    files: tuple[Artifact, ...] = ()
    """Those that are kept."""
    not_kept: tuple[str, ...] = ()
    """The paths of others, as many as are named, each with the reason."""
    more: int = 0
    """How many others there are that are not named, at least."""
    display: ArtifactDisplay | None = None
    """How the turn's agent wants them shown; None: as the deployment shows them."""


class TurnEnded(Message):
    """The last event of a turn. Sent by: agent; by the worker or a script if the agent cannot.

    `state` is terminal. `error` is set exactly if the state is failed, interrupted or expired.
    `checkpoint` is the SDK transcript entry at which the turn ended, for branching. `heads` says
    how the answer begins (`infra.wire.history.answers`); None if unknown. `is_remembered` is False
    if the turn left the agent's memory unchanged. `end_reason` is meaningful if the state is done.
    `made` is the worker's to say: an end from an agent that has it is refused. `asks`: the answer
    ends with a question to the user, and the work goes on with what they say next.
    """

    type: Literal["end"] = "end"
    state: TurnState
    end_reason: EndReason = EndReason.DONE
    asks: bool = False
    usage: Usage = Usage()
    error: TurnError | None = None
    checkpoint: str | None = None
    heads: tuple[str, ...] | None = None
    is_remembered: bool = True
    made: TurnFiles | None = None


Event = Annotated[
    TurnStarted
    | TextDelta
    | ThinkingDelta
    | ToolCall
    | ToolResult
    | ClientCall
    | Notice
    | TurnEnded,
    Field(discriminator="type"),
]
_EVENT: TypeAdapter[Event] = TypeAdapter(Event)

_TEXT_HEAD = b'{"type":"text","text":'
_THINKING_HEAD = b'{"type":"thinking","text":'
_END_HEAD = b'{"type":"end"'
_CALL_HEAD = b'{"type":"client_call"'

_DELTA = re.compile(
    rb'\{"type":"(?:text|thinking)","text":'
    rb'"[ !#-\[\]-~]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[ !#-\[\]-~]*+)*+"\}'
)
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_KIND = re.compile(r"[a-z][a-z_]{0,39}")

_TOKENS_MAX = 2**50
_WAIT_MAX_S = 31 * 86_400.0

EVENT_MAX_BYTES = 64 * 1024
"""Maximum size in bytes of an event that is not a delta: a readable line or two, or an end."""
CALL_MAX_BYTES = 1024 * 1024
"""Maximum size in bytes of a `ClientCall`, nearly all of it arguments."""


def encode_event(event: Event) -> bytes:
    """An event's canonical bytes: ASCII JSON on one line, `type` first."""
    if isinstance(event, TextDelta):
        return _TEXT_HEAD + encode_basestring_ascii(event.text).encode() + b"}"
    if isinstance(event, ThinkingDelta):
        return _THINKING_HEAD + encode_basestring_ascii(event.text).encode() + b"}"
    return event.encode()


def decode_event(payload: bytes) -> Event:
    """Raises `UnknownMessage` (skip it) or `MalformedMessage`."""
    event: Event = decode(_EVENT, payload)
    return event


def check_event(payload: bytes) -> Event | None:
    """Validate an event from an agent once, before others get it; they trust its form.

    Returns the event; None for a delta, whose text is one JSON string in ASCII, and for a type that
    this version does not know. Raises `MalformedMessage`. Without this check, an agent could write
    blocks of its own into the stream, because deltas are spliced in undecoded.
    """
    if _DELTA.fullmatch(payload):
        return None
    if is_delta(payload):
        raise MalformedMessage("a delta that is not one JSON string in ASCII")
    if _CONTROL.search(payload):
        raise MalformedMessage("an event that is not on one line")
    try:
        max_bytes = CALL_MAX_BYTES if is_client_call(payload) else EVENT_MAX_BYTES
        event: Event = decode(_EVENT, payload, max_bytes=max_bytes)
    except UnknownMessage as unknown:
        if not _KIND.fullmatch(unknown.kind):
            raise MalformedMessage(str(unknown)) from None
        return None
    if is_end(payload) is not isinstance(event, TurnEnded):
        raise MalformedMessage("an event whose beginning says something else")
    if is_client_call(payload) is not isinstance(event, ClientCall):
        raise MalformedMessage("a call whose beginning says something else")
    if isinstance(event, TurnEnded) and event.made is not None:
        raise MalformedMessage("an end that names kept files")
    if isinstance(event, TurnEnded) and not _has_sane_numbers(event):
        raise MalformedMessage("an end with numbers that count nothing")
    return event


def _has_sane_numbers(end: TurnEnded) -> bool:
    """Whether the numbers can be stored, added up and sent in a header."""
    tokens = end.usage.model_dump().values()
    waits_s = end.error.retry_after_s if end.error else None
    return all(0 <= n <= _TOKENS_MAX for n in tokens if n is not None) and (
        waits_s is None or 0 <= waits_s <= _WAIT_MAX_S
    )


def text_literal(payload: bytes) -> bytes | None:
    """The JSON string literal of a text delta, quotes included; None for any other event."""
    return payload[len(_TEXT_HEAD) : -1] if payload.startswith(_TEXT_HEAD) else None


def thinking_literal(payload: bytes) -> bytes | None:
    """The JSON string literal of a thinking delta, quotes included; None for any other event."""
    return payload[len(_THINKING_HEAD) : -1] if payload.startswith(_THINKING_HEAD) else None


def is_delta(payload: bytes) -> bool:
    """Whether the event is a text or thinking delta, which may be logged 250 ms late."""
    return payload.startswith((_TEXT_HEAD, _THINKING_HEAD))


def is_client_call(payload: bytes) -> bool:
    """Whether the event is a `ClientCall`."""
    return payload.startswith(_CALL_HEAD)


def is_end(payload: bytes) -> bool:
    """Whether the event ends its turn."""
    return payload.startswith(_END_HEAD)
