"""Calls and results of the client's functions in OpenAI's messages. Pure.

The agent gets them as what they are, or as text if it does not get the client's functions. A call
that the Messages API would not take, because of its name, id or arguments, is text too; so is every
call of a `custom` tool.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Sequence
from itertools import accumulate

import msgspec

from api.chat.request import Called, ChatMessage, given, text_of
from infra.wire.errors import RequestRefused
from infra.wire.turns import CallBlock, ContentBlock, ImageBlock, ResultBlock, TextBlock

RESULT_ROLES = frozenset({"tool", "function"})

ID_MAX_CHARS = 256
DEPTH_MAX = 500
"""How deeply the arguments of a call may be nested. A reader of deeper ones could fail."""

_ID = re.compile(rf"[a-zA-Z0-9_-]{{1,{ID_MAX_CHARS}}}")
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NO_STEPS = bytes(set(range(256)) - set(b"[{]}"))


def result_blocks(message: ChatMessage, content: Sequence[ContentBlock]) -> Iterator[ContentBlock]:
    """What a function returned. Parts that no result can hold stand behind it."""
    inside = tuple(b for b in content if isinstance(b, TextBlock | ImageBlock))
    yield ResultBlock(
        call=(message.tool_call_id or "")[:ID_MAX_CHARS],
        name=(message.name or "")[:ID_MAX_CHARS],
        content=inside,
    )
    yield from (block for block in content if not isinstance(block, TextBlock | ImageBlock))


def result_as_text(message: ChatMessage, content: Sequence[ContentBlock]) -> Iterator[ContentBlock]:
    """The same as text."""
    of = message.name or message.tool_call_id or "a tool"
    yield TextBlock(text=f"[Result of {of}]")
    yield from content


def calls_in(message: ChatMessage) -> Iterator[ContentBlock]:
    """The calls of an answer."""
    for call in message.tool_calls or ():
        id = text_of(call.id)
        is_good = id is not None and _ID.fullmatch(id) is not None
        block = _call(call.function, id or "") if is_good else None
        if block is None:
            yield from _as_text(call.function or call.custom)
        else:
            yield block
    if message.function_call is not None:
        block = _call(message.function_call, "")
        yield from [block] if block else _as_text(message.function_call)


def calls_as_text(message: ChatMessage) -> Iterator[ContentBlock]:
    """The same as text."""
    for call in message.tool_calls or ():
        yield from _as_text(call.function or call.custom)
    yield from _as_text(message.function_call)


def check_pairs(messages: Sequence[ChatMessage]) -> None:
    """Check that the newest messages fit the calls before them: calls are followed by results, and
    results belong to calls.

    A call without a result is no error: the agent is told that there is none. Raises
    `RequestRefused`, naming the message.
    """
    spoken = [(i, m) for i, m in enumerate(messages) if m.role not in ("system", "developer")]
    if not spoken:
        return
    last, newest = spoken[-1]
    if newest.role == "assistant" and (newest.tool_calls or newest.function_call):
        raise RequestRefused(
            f"`messages[{last}]` calls functions: send their results behind it, as messages of "
            "role `tool` with the `tool_call_id` of each call.",
            param=f"messages[{last}].tool_calls",
        )
    answers = [at for at, (_, m) in enumerate(spoken) if m.role == "assistant"]
    if not answers:
        return  # A client that sends only what is new.
    answer = spoken[answers[-1]][1]
    known = {text_of(call.id) for call in answer.tool_calls or ()}
    for i, message in spoken[answers[-1] + 1 :]:
        if message.role == "tool" and message.tool_call_id not in known:
            raise RequestRefused(
                f"`messages[{i}].tool_call_id` is none of the calls in the answer before it.",
                param=f"messages[{i}].tool_call_id",
            )


def _call(called: Called | None, id: str) -> CallBlock | None:
    if called is None or (name := text_of(called.name)) is None or not _NAME.fullmatch(name):
        return None
    arguments = text_of(called.arguments) or "{}"
    try:
        _OBJECT.decode(arguments)
    except (msgspec.MsgspecError, RecursionError):
        return None
    if _depth(arguments) > DEPTH_MAX:
        return None
    return CallBlock(id=id, name=name, arguments=arguments)


def _depth(valid: str) -> int:
    """How deeply a JSON text is nested, at most. An argument is often a whole file, so brackets in
    its strings do not count. Takes time in proportion to a valid text."""
    brackets = valid.count("{") + valid.count("[")
    if brackets <= DEPTH_MAX:
        return brackets
    steps = array("b", _STRING.sub("", valid).encode().translate(_STEPS, _NO_STEPS))
    return max(accumulate(steps), default=0)


def _as_text(called: Called | None) -> Iterator[ContentBlock]:
    if called is not None:
        name = text_of(called.name) or "a tool"
        yield TextBlock(text=f"[Called {name} with {_arguments(called)}]")


def _arguments(called: Called) -> str:
    raw = given(called.arguments) or given(called.input)
    if raw is None:
        return ""
    told = text_of(raw)
    return bytes(raw).decode("utf-8", "replace") if told is None else told
