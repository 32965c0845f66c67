"""The body of a chat request. Only the fields that are used are parsed.

Objects take many times the memory of the bytes that were sent: a body that consists of `{}` once
took a gigabyte. So fields without effect stay bytes or are skipped. The objects that are created
are counted (`PARTS_MAX`), and so are all characters that cost a parser work (`SIGNS_MAX`), before
the body is parsed. Types and ranges are OpenAI's, and every error names its field. Content is
parsed where it is used (`api.chat.messages.blocks`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Annotated, Any, Literal, TypeVar, get_args

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from api.http.bodies import type_refusal
from infra.runtime.signs import SIGNS_MAX, has_many_signs
from infra.wire.errors import RequestRefused

T = TypeVar("T")

Body = bytes | bytearray

MESSAGES_MAX = 4096
"""A longer history would delay a replica's other streams while it is read."""
PARTS_MAX = 16_384
"""Messages, content parts and tool calls of one request, together."""

_SMALL_BYTES = 64 * 1024
_BOM = b"\xef\xbb\xbf"

Role = Literal["system", "developer", "user", "assistant", "tool", "function"]

_Text = str | None
_Flag = bool | None
Json = Raw | UnsetType
"""Unparsed bytes."""
_AN_OBJECT = Meta(extra_json_schema={"type": ["object", "null"]})
_A_LIST = Meta(extra_json_schema={"type": ["array", "null"]})
_A_CHOICE = Meta(extra_json_schema={"type": ["string", "object", "null"]})
_WORDS = Meta(extra_json_schema={"type": ["string", "array", "null"], "items": {"type": "string"}})
_WHOLE = Meta(extra_json_schema={"multipleOf": 1})
_CONTENT = Meta(
    extra_json_schema={
        "anyOf": [
            {"type": "string"},
            {"type": "array", "items": {"type": "object", "additionalProperties": True}},
            {"type": "null"},
        ],
        "description": "Text, or parts of type `text`, `image_url`, `file` (each with a data: URL "
        "or the `file_id` of an uploaded file of any type) and `input_audio`.",
    }
)
_Tokens = Annotated[float, Meta(ge=1, le=2**53), _WHOLE] | None
_Penalty = Annotated[float, Meta(ge=-2, le=2)] | None


class _Built:
    """How many objects were created from one request's body."""

    def __init__(self, count: int) -> None:
        self.count = count


_built: ContextVar[_Built] = ContextVar("built")


@contextmanager
def counted(count: int = 0) -> Iterator[None]:
    """Objects created in this block belong to one request, from which so many were created before.

    Each parsing step starts its own count, because a request is parsed in several steps, in
    different threads, with other requests in between.
    """
    token = _built.set(_Built(count))
    try:
        yield
    finally:
        _built.reset(token)


class _Counted(Struct, frozen=True):
    """An object of which a body could contain millions."""

    def __post_init__(self) -> None:
        built = _built.get()
        built.count += 1
        if built.count > PARTS_MAX:
            # Not a `ValueError`: that would mean an invalid field, which is silently left out of a
            # history.
            raise RequestRefused(
                f"`messages` has more than {PARTS_MAX:,} messages, parts and calls together.",
                param="messages",
            )


class Called(_Counted, frozen=True):
    """The part of a client's tool call that we use."""

    name: Json = UNSET
    arguments: Json = UNSET
    input: Json = UNSET


class ChatToolCall(_Counted, frozen=True):
    """A tool call in an answer."""

    id: Json = UNSET
    function: Called | None = None
    custom: Called | None = None


class ChatMessage(_Counted, frozen=True):
    """A message of the conversation."""

    role: Role
    content: Annotated[Json, _CONTENT] = UNSET
    refusal: _Text = None
    name: _Text = None
    tool_calls: list[ChatToolCall] | None = None
    function_call: Called | None = None
    tool_call_id: _Text = None

    @property
    def first_text(self) -> str:
        """The first text of its content that is not blank, if there is one."""
        try:
            with counted():
                content = read_content(self.content)
        except msgspec.MsgspecError:
            return ""
        if isinstance(content, str):
            return content
        texts = (text_of(part.text) for part in content or ())
        return next((text for text in texts if text and text.strip()), "")


class Part(_Counted, frozen=True):
    """A part of a message's content."""

    type: Json = UNSET
    text: Json = UNSET
    refusal: Json = UNSET
    image_url: Json = UNSET
    file: Json = UNSET
    file_id: Json = UNSET
    file_data: Json = UNSET
    file_url: Json = UNSET
    input_audio: Json = UNSET
    filename: Json = UNSET


class StreamOptions(Struct, frozen=True):
    """Options of a streamed answer."""

    include_usage: _Flag = None
    include_obfuscation: _Flag = None


class _Metadata(Struct, frozen=True):
    conversation_id: Json = UNSET
    egress_profile: Json = UNSET


class ChatRequest(Struct, frozen=True):
    """The body of `POST /v1/chat/completions`."""

    model: Annotated[str, Meta(min_length=1, max_length=256, description="One of /v1/models.")]
    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=MESSAGES_MAX)]
    stream: _Flag = None
    stream_options: StreamOptions | None = None
    n: Annotated[float, _WHOLE, Meta(ge=1, le=1, description="Only 1.")] | None = None
    max_completion_tokens: _Tokens = None
    max_tokens: _Tokens = None
    metadata: Annotated[Json, _AN_OBJECT] = UNSET
    response_format: Annotated[Json, _AN_OBJECT] = UNSET
    reasoning_effort: _Text = None
    reasoning: Annotated[Json, _AN_OBJECT] = UNSET
    stop: Annotated[Json, _WORDS] = UNSET
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    verbosity: _Text = None
    # Without effect; typed so that invalid values are refused.
    audio: Annotated[Json, _AN_OBJECT] = UNSET
    frequency_penalty: _Penalty = None
    function_call: Annotated[Json, _A_CHOICE] = UNSET
    functions: Annotated[Json, _A_LIST] = UNSET
    logit_bias: Annotated[Json, _AN_OBJECT] = UNSET
    logprobs: _Flag = None
    parallel_tool_calls: _Flag = None
    presence_penalty: _Penalty = None
    seed: Annotated[float, Meta(ge=-(2**63), le=2**63), _WHOLE] | None = None
    store: _Flag = None
    tool_choice: Annotated[Json, _A_CHOICE] = UNSET
    tools: Annotated[Json, _A_LIST] = UNSET
    top_logprobs: Annotated[float, Meta(ge=0, le=20), _WHOLE] | None = None
    user: _Text = None

    @property
    def wants_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def bound(self) -> int | None:
        """The client's limit on the answer, in tokens."""
        wanted = self.max_completion_tokens or self.max_tokens
        return int(wanted) if wanted else None

    @property
    def names(self) -> dict[str, object]:
        """The part of `metadata` that has a meaning here. Raises `RequestRefused`."""
        raw = given(self.metadata)
        if raw is None:
            return {}
        held = _METADATA.decode(raw)
        found = {name: getattr(held, name) for name in held.__struct_fields__}
        return {
            name: msgspec.json.decode(_small(value, f"metadata.{name}"))
            for name, field in found.items()
            if (value := given(field)) is not None
        }

    @property
    def reasoning_told(self) -> dict[str, Any]:
        """`reasoning`, OpenRouter's form of `reasoning_effort`. Raises `RequestRefused`."""
        return self._decoded_small("reasoning", _FORM) or {}

    @property
    def stops(self) -> tuple[str, ...]:
        """What `stop` names. Raises `RequestRefused`."""
        told = self._decoded_small("stop", _STOPS)
        return (told,) if isinstance(told, str) else tuple(told or ())

    def _decoded_small(self, name: str, decoder: msgspec.json.Decoder[T]) -> T | None:
        raw = given(getattr(self, name))
        if raw is None:
            return None
        try:
            return _decoded(decoder, _small(raw, name))
        except msgspec.ValidationError as error:
            raise refusal(error, name) from None
        except RecursionError:
            raise RequestRefused(f"`{name}` is nested too deeply.", param=name) from None

    @property
    def schema_bytes(self) -> int:
        """The size of the fields that hold schemas."""
        fields = map(given, (self.response_format, self.tools, self.functions))
        return sum(len(memoryview(raw)) for raw in fields if raw is not None)

    @property
    def form(self) -> dict[str, Any] | None:
        """The requested format of the answer. Raises `RequestRefused`."""
        return self._decoded_small("response_format", _FORM)


_REQUEST = msgspec.json.Decoder(ChatRequest)
_CONTENT_OF = msgspec.json.Decoder(str | list[Part] | None)
_TEXT_OF = msgspec.json.Decoder(str)
_METADATA = msgspec.json.Decoder(_Metadata)
_FORM = msgspec.json.Decoder(dict[str, Any])
_STOPS = msgspec.json.Decoder(str | list[str])
_BIAS = msgspec.json.Decoder(dict[str, Annotated[float, Meta(ge=-100, le=100)]])

_BEGINS = {
    "audio": b"{", "function_call": b'"{', "functions": b"[", "logit_bias": b"{",
    "metadata": b"{", "reasoning": b"{", "response_format": b"{", "stop": b'"[',
    "tool_choice": b'"{', "tools": b"[",
}  # fmt: skip
"""How the value of an unparsed field may begin; `null` is always allowed."""
_WHOLES = ("n", "max_completion_tokens", "max_tokens", "seed", "top_logprobs")


def read_chat_request(body: Body) -> ChatRequest:
    """Raises `RequestRefused`, naming the first invalid field."""
    if has_many_signs(body):
        raise RequestRefused(f"The body has more than {SIGNS_MAX:,} brackets and separators.")
    if body.startswith(_BOM):
        body = memoryview(body)[len(_BOM) :].tobytes()
    try:
        with counted():
            request = _decoded(_REQUEST, body)
        _check(request)
    except msgspec.ValidationError as error:
        raise refusal(error) from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise RequestRefused(f"The body is not valid JSON: {error}.") from None
    return request


def built_of(messages: Iterable[ChatMessage]) -> int:
    """How many objects the messages are, without their contents."""
    return sum(1 + _calls_built(message) for message in messages)


def _calls_built(message: ChatMessage) -> int:
    calls = message.tool_calls or ()
    called = [one for call in calls for one in (call.function, call.custom)]
    return len(calls) + sum(one is not None for one in [*called, message.function_call])


def read_content(content: Json) -> str | list[Part] | None:
    """A message's content, within `counted`.

    Raises `msgspec.MsgspecError`, and `RequestRefused` if its request has too many parts.
    """
    raw = given(content)
    return None if raw is None else _decoded(_CONTENT_OF, raw)


def text_of(value: Json) -> str | None:
    """The value if it is a string, otherwise None."""
    raw = given(value)
    try:
        return None if raw is None else _decoded(_TEXT_OF, raw)
    except msgspec.MsgspecError:
        return None


def given(value: Json) -> Raw | None:
    """An unparsed field; None if it is absent or null."""
    return value if isinstance(value, Raw) and bytes(memoryview(value)[:4]) != b"null" else None


def refusal(error: msgspec.ValidationError, where: str = "") -> RequestRefused:
    """A type error in OpenAI's notation; `where` is the field that was parsed."""
    return type_refusal(error, where, known=get_args(Role))


def _decoded(decoder: msgspec.json.Decoder[T], raw: Body | Raw) -> T:
    """The decoded value; half an emoji in it becomes U+FFFD."""
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        mended = without_halves(bytes(raw))
        if mended == raw:
            raise
        return decoder.decode(mended)


_HALF = re.compile(
    rb"(?<!\\)((?:\\\\)*)"
    rb"(?:(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})|\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
    rb"|\xed[\xa0-\xbf][\x80-\xbf]"
)
"""An escaped emoji, half of one, or half of one that was written without escapes."""


def without_halves(json: bytes) -> bytes:
    """The JSON with unpaired surrogates replaced: clients cut texts, and then resend them."""
    return _HALF.sub(_mended, json)


def _mended(found: re.Match[bytes]) -> bytes:
    if found[2]:
        return found[0]
    return (found[1] or b"") + rb"\ufffd"


def _check(request: ChatRequest) -> None:
    """Checks that the types do not express."""
    for name, begins in _BEGINS.items():
        value = given(getattr(request, name))
        if value is not None and bytes(memoryview(value)[:1]) not in begins:
            kinds = " or ".join(_KINDS[sign] for sign in begins)
            raise RequestRefused(f"`{name}` must be {kinds}.", param=name)
    for name in _WHOLES:
        number = getattr(request, name)
        if number is not None and not number.is_integer():
            raise RequestRefused(f"`{name}` must be a whole number.", param=name)
    if (bias := given(request.logit_bias)) is not None:
        try:
            _BIAS.decode(_small(bias, "logit_bias"))
        except msgspec.ValidationError as error:
            raise refusal(error, "logit_bias") from None


def _small(value: Raw, name: str) -> bytes:
    """A field that is parsed as a whole. Raises `RequestRefused` if it is large."""
    if len(memoryview(value)) > _SMALL_BYTES:
        raise RequestRefused(f"`{name}` is larger than {_SMALL_BYTES // 1024} KiB.", param=name)
    return bytes(value)


_KINDS = {ord("{"): "an object", ord("["): "an array", ord('"'): "a string"}
