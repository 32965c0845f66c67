"""OpenAI's messages -> what an agent is told: system prompt, history, prompt. Pure.

The prompt is everything the user said since the last answer; all before it is history, used only
where the agent's memory is not what the client sees. What the user said between two answers is one
turn, however many messages it took, and so is its digest. Tool calls and results of the client's
own tools become text: this agent runs its own tools. Nothing is ever fetched: a picture or document
comes inline or is refused, for a URL fetched on a caller's behalf is a door into our network.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from api.models import ChatMessage
from infra.wire.errors import RequestRefused
from infra.wire.history import digest, tails
from infra.wire.turns import ContentBlock, DocumentBlock, HistoryMessage, ImageBlock, TextBlock

IMAGE_TYPES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
_PDF = "application/pdf"
_SYSTEM_ROLES = frozenset({"system", "developer"})
_RESULT_ROLES = frozenset({"tool", "function"})

Blocks = tuple[ContentBlock, ...]


@dataclass(frozen=True)
class Prompt:
    """What of a turn comes from the messages."""

    system_prompt: str | None
    history: tuple[HistoryMessage, ...]
    prompt: Blocks
    sent: tuple[str, ...]
    """Digests of what the user said, one for each of their turns, the prompt last."""
    has_answers: bool
    """The client sent answers along, if only empty ones."""
    answers: tuple[str, ...]
    """Text of the answer after each of the user's turns but the last."""
    begins: tuple[int, ...] = ()
    """Where in the history each of those turns begins."""
    tails: tuple[str, ...] = ()
    """Digests under which the prompt may come back."""


def read_messages(messages: Sequence[ChatMessage]) -> Prompt:
    """Raises `RequestRefused` naming the message or part that does not fit."""
    system: list[str] = []
    said: list[HistoryMessage] = []
    begins: list[int] = []
    is_answered = True
    for i, message in enumerate(messages):
        where = f"messages[{i}]"
        if message.role in _SYSTEM_ROLES:
            system.extend(_system_text(message, where))
            continue
        blocks = tuple(_blocks(message, where))
        if message.role == "assistant":
            # An answer that was stopped before its first word is empty, but ends the user's turn.
            is_answered = True
        elif blocks and is_answered:
            begins.append(len(said))
            is_answered = False
        if blocks:
            role: Literal["user", "assistant"]
            role = "assistant" if message.role == "assistant" else "user"
            said.append(HistoryMessage(role=role, content=blocks))
    _require_a_prompt(messages)
    if is_answered:
        last = len(messages) - 1
        raise RequestRefused("The last message is empty.", param=f"messages[{last}].content")
    spans = list(pairwise([*begins, len(said)]))
    turns = [_blocks_of(said[begin:end], "user") for begin, end in spans]
    answers = [_blocks_of(said[begin:end], "assistant") for begin, end in spans[:-1]]
    return Prompt(
        system_prompt="\n\n".join(system) or None,
        history=tuple(said[: begins[-1]]),
        prompt=turns[-1],
        sent=tuple(map(digest, turns)),
        has_answers=any(message.role == "assistant" for message in messages),
        answers=tuple(
            "".join(block.text for block in answer if isinstance(block, TextBlock))
            for answer in answers
        ),
        begins=tuple(begins[:-1]),
        tails=tails(turns[-1]),
    )


def _blocks_of(messages: Iterable[HistoryMessage], role: str) -> Blocks:
    return tuple(block for m in messages if m.role == role for block in m.content)


def _require_a_prompt(messages: Sequence[ChatMessage]) -> None:
    spoken = [i for i, m in enumerate(messages) if m.role not in _SYSTEM_ROLES]
    if not spoken:
        raise RequestRefused("There is no message from the user.", param="messages")
    if messages[spoken[-1]].role == "assistant":
        raise RequestRefused(
            "The last message must be from the user: answers cannot be prefilled.",
            param=f"messages[{spoken[-1]}].role",
        )


def _system_text(message: ChatMessage, where: str) -> Iterator[str]:
    for block in _content(message.content, where):
        if not isinstance(block, TextBlock):
            raise RequestRefused("A system message holds text only.", param=f"{where}.content")
        yield block.text


def _blocks(message: ChatMessage, where: str) -> Iterator[ContentBlock]:
    blocks = _content(message.content, where)
    if message.role in _RESULT_ROLES:
        of = message.name or message.tool_call_id or "a tool"
        yield TextBlock(text=f"[Result of {of}]")
    yield from blocks
    yield from (TextBlock(text=line) for line in _calls(message))


def _calls(message: ChatMessage) -> Iterator[str]:
    calls = [call.get("function") or call.get("custom") for call in message.tool_calls or ()]
    for called in [*calls, message.function_call]:
        if isinstance(called, dict):
            arguments = called.get("arguments", called.get("input", ""))
            told = arguments if isinstance(arguments, str) else json.dumps(arguments)
            yield f"[Called {called.get('name', 'a tool')} with {told}]"


def _content(content: object, where: str) -> list[ContentBlock]:
    if content is None:
        return []
    if isinstance(content, str):
        return [TextBlock(text=content)] if content.strip() else []
    if not isinstance(content, list):
        raise RequestRefused(
            f"`{where}.content` must be a string or a list of parts.", param=f"{where}.content"
        )
    parts = (_part(part, f"{where}.content[{i}]") for i, part in enumerate(content))
    return [block for block in parts if block is not None]


def _part(part: object, where: str) -> ContentBlock | None:
    if not isinstance(part, dict):
        raise RequestRefused(f"`{where}` must be an object.", param=where)
    kind = part.get("type")
    if kind in ("text", "refusal", "input_text", "output_text"):
        field = "refusal" if kind == "refusal" else "text"
        text = _string(part, field, where)
        return TextBlock(text=text) if text.strip() else None
    if kind == "image_url":
        return _image(part, where)
    if kind == "file":
        return _file(part, where)
    if kind == "input_audio":
        raise RequestRefused("Audio is not supported.", param=f"{where}.type")
    raise RequestRefused(
        f"`{where}.type` must be one of text, image_url, file.", param=f"{where}.type"
    )


def _image(part: Mapping[str, Any], where: str) -> ImageBlock:
    holder = part.get("image_url")
    # Some clients send the URL itself in place of the object.
    url = (
        holder
        if isinstance(holder, str)
        else _string(_object(part, "image_url", where), "url", f"{where}.image_url")
    )
    param = f"{where}.image_url.url"
    if not url.startswith("data:"):
        raise RequestRefused(
            "Image URLs are not fetched. Send the picture inline, as a data: URL.", param=param
        )
    media_type, data = _data_url(url, param)
    if media_type not in IMAGE_TYPES:
        raise RequestRefused(
            f"Pictures must be one of {', '.join(sorted(IMAGE_TYPES))}.", param=param
        )
    return ImageBlock(media_type=media_type, data=data)


def _file(part: Mapping[str, Any], where: str) -> ContentBlock | None:
    file = _object(part, "file", where)
    if "file_data" not in file:
        raise RequestRefused(
            "Files are sent inline, in `file_data` as a data: URL; there are no uploads.",
            param=f"{where}.file.file_data",
        )
    param = f"{where}.file.file_data"
    value = _string(file, "file_data", f"{where}.file")
    name = file.get("filename")
    filename = name if isinstance(name, str) else None
    if value.startswith("data:"):
        media_type, data = _data_url(value, param)
    elif value.startswith(("http://", "https://")):
        raise RequestRefused("File URLs are not fetched. Send the file inline.", param=param)
    else:
        # Bare base64 is what OpenAI's own examples of PDF input once showed.
        media_type, data = _PDF, _checked_base64(value, param)
    if media_type == _PDF:
        return DocumentBlock(media_type=media_type, data=data, filename=filename)
    if media_type in IMAGE_TYPES:
        return ImageBlock(media_type=media_type, data=data)
    if media_type.startswith("text/") or media_type == "application/json":
        return _text_file(data, filename, param)
    raise RequestRefused(
        f"Files of type {media_type[:80]} are not supported: send PDF documents, text or pictures.",
        param=param,
    )


def _text_file(data: str, filename: str | None, param: str) -> TextBlock | None:
    try:
        text = base64.b64decode(data).decode()
    except UnicodeDecodeError:
        raise RequestRefused("The text file is not UTF-8.", param=param) from None
    head = f"[File {filename}]\n" if filename else ""
    return TextBlock(text=head + text) if text.strip() else None


def _data_url(url: str, param: str) -> tuple[str, str]:
    head, comma, data = url.partition(",")
    media_type, *options = head.removeprefix("data:").split(";")
    if not comma or "base64" not in options:
        raise RequestRefused("The data: URL must hold base64 data.", param=param)
    return media_type.strip().lower() or "text/plain", _checked_base64(data, param)


def _checked_base64(data: str, param: str) -> str:
    """Checked here, so that the caller hears of it and not the agent's model."""
    try:
        if not base64.b64decode(data, validate=True):
            raise RequestRefused("The base64 data is empty.", param=param)
    except (binascii.Error, ValueError):
        raise RequestRefused("The base64 data is broken.", param=param) from None
    return data


def _object(holder: Mapping[str, Any], field: str, where: str) -> Mapping[str, Any]:
    value = holder.get(field)
    if not isinstance(value, dict):
        raise RequestRefused(f"`{where}.{field}` must be an object.", param=f"{where}.{field}")
    return value


def _string(holder: Mapping[str, Any], field: str, where: str) -> str:
    value = holder.get(field)
    if not isinstance(value, str):
        raise RequestRefused(f"`{where}.{field}` must be a string.", param=f"{where}.{field}")
    return value
