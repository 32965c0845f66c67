"""Converts the content of OpenAI's messages to blocks for an agent. Pure.

Nothing is ever fetched: a file must be inline, or one that the caller uploaded, because fetching
URLs for a caller would give access to our network. Only the newest message is refused, with what to
change. Unreadable content of earlier messages becomes a note, because clients resend their history,
and one refused upload would end the chat for good.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from api.chat.messages.attached import (
    AUDIO_PARTS,
    FILE_PARTS,
    PICTURE_PARTS,
    NamedFiles,
    attached,
    name_of,
)
from api.chat.request import Json, Part, read_content, refusal, text_of
from infra.wire.errors import RequestRefused
from infra.wire.text.words import Case, refused
from infra.wire.turns import ContentBlock, TextBlock

_TEXTS = frozenset({"text", "input_text", "output_text"})
_THOUGHTS = frozenset({"thinking", "redacted_thinking", "reasoning"})
"""The reasoning of an answer, which some clients send back. It is not part of the answer."""


def blocks_of(
    content: Json, where: str, *, is_newest: bool, files: NamedFiles
) -> list[ContentBlock]:
    """The content of a message. Raises `RequestRefused` for unreadable content of the newest
    one."""
    try:
        read = read_content(content)
    except msgspec.ValidationError as error:
        if is_newest:
            raise refusal(error, where) from None
        return [_note("content that could not be read")]
    except (msgspec.DecodeError, RecursionError) as error:
        raise RequestRefused(f"The body is not valid JSON: {error}.") from None
    if read is None:
        return []
    if isinstance(read, str):
        return [TextBlock(text=read)] if read.strip() else []
    return list(_blocks(read, where, is_newest=is_newest, files=files))


def _blocks(
    parts: list[Part], where: str, *, is_newest: bool, files: NamedFiles
) -> Iterator[ContentBlock]:
    count = 0
    for i, part in enumerate(parts):
        try:
            block = _block(part, f"{where}[{i}]", files, is_newest=is_newest)
            count += block is not None and not isinstance(block, TextBlock)
            if is_newest and count > files.files_max:
                raise refused(Case.REQUEST_FILES, files=files.files_max, param=f"{where}[{i}]")
        except RequestRefused:
            if is_newest:
                raise
            block = _left_out(part)
        if block is not None:
            yield block


def _block(part: Part, where: str, files: NamedFiles, *, is_newest: bool) -> ContentBlock | None:
    kind = text_of(part.type)
    if kind in _TEXTS or kind == "refusal":
        field = "refusal" if kind == "refusal" else "text"
        text = _string(part.refusal if kind == "refusal" else part.text, f"{where}.{field}")
        return TextBlock(text=text) if text.strip() else None
    if (file := attached(part, where, files, is_newest=is_newest)) is not None:
        return file
    raise RequestRefused(
        f"`{where}.type` must be one of text, image_url, file, input_audio.", param=f"{where}.type"
    )


def _left_out(part: Part) -> TextBlock | None:
    kind = text_of(part.type)
    if kind in _THOUGHTS:
        return None
    if kind in AUDIO_PARTS:
        return _note("a sound recording")
    if kind in PICTURE_PARTS:
        return _note("a picture")
    if kind in FILE_PARTS:
        name = name_of(part)
        return _note(f"the file {name}" if name else "a file")
    return _note("something of a kind that could not be read")


def _note(what: str) -> TextBlock:
    return TextBlock(text=f"[Left out here: {what}]")


def _string(value: Json, where: str) -> str:
    text = text_of(value)
    if text is None:
        raise RequestRefused(f"`{where}` must be a string.", param=where)
    return text
