"""Converts the content of OpenAI's messages to blocks for an agent. Pure.

Nothing is ever fetched: a picture or document must be inline, or a file that the caller uploaded,
because fetching URLs for a caller would give access to our network. Only the newest message is
refused, with what to change. Unreadable content of earlier messages becomes a note, because clients
resend their history, and one refused upload would end the chat for good.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from typing import TypeVar

import msgspec
from msgspec import Struct

from api.chat.request import Json, Part, given, read_content, refusal, text_of
from api.files.given import PDF, GivenFile
from infra.wire.errors import RequestRefused
from infra.wire.turns import ContentBlock, DocumentBlock, ImageBlock, TextBlock

S = TypeVar("S", bound=Struct)

IMAGE_TYPES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})

_MEDIA_TYPE = re.compile(r"[a-z]{1,20}/[a-z0-9.+-]{1,80}")
_TEXTS = frozenset({"text", "input_text", "output_text"})
_PICTURES = frozenset({"image_url", "input_image"})
_DOCUMENTS = frozenset({"file", "input_file"})
_THOUGHTS = frozenset({"thinking", "redacted_thinking", "reasoning"})
"""The reasoning of an answer, which some clients send back. It is not part of the answer."""
_SLICE_CHARS = 1024 * 1024


class NamedFiles:
    """The caller's files that the messages name. Without `known`, nothing is known of them yet, and
    `asked` collects their ids."""

    def __init__(self, known: Mapping[str, GivenFile] | None = None) -> None:
        self._known = known
        self.asked = set[str]()

    def get(self, id: str) -> GivenFile | None:
        """The file; None if there is none. Something in its place as long as nothing is known."""
        if self._known is None:
            self.asked.add(id)
            return GivenFile(name="", media_type="image/png", data="")
        return self._known.get(id)


class _Picture(Struct, frozen=True):
    url: Json = msgspec.UNSET
    file_id: Json = msgspec.UNSET


class _File(Struct, frozen=True):
    file_id: Json = msgspec.UNSET
    file_data: Json = msgspec.UNSET
    filename: Json = msgspec.UNSET


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
    for i, part in enumerate(parts):
        try:
            block = _block(part, f"{where}[{i}]", files)
        except RequestRefused:
            if is_newest:
                raise
            block = _left_out(part)
        if block is not None:
            yield block


def _block(part: Part, where: str, files: NamedFiles) -> ContentBlock | None:
    kind = text_of(part.type)
    if kind in _TEXTS or kind == "refusal":
        field = "refusal" if kind == "refusal" else "text"
        text = _string(part.refusal if kind == "refusal" else part.text, f"{where}.{field}")
        return TextBlock(text=text) if text.strip() else None
    if kind in _PICTURES:
        return _image(part, where, files)
    if kind == "file":
        return _file(_object(part.file, _File, f"{where}.file"), f"{where}.file", files)
    if kind == "input_file":
        return _file(_File(part.file_id, part.file_data, part.filename), where, files)
    if kind == "input_audio":
        raise RequestRefused("Audio is not supported: send text.", param=f"{where}.type")
    raise RequestRefused(
        f"`{where}.type` must be one of text, image_url, file.", param=f"{where}.type"
    )


def _left_out(part: Part) -> TextBlock | None:
    kind = text_of(part.type)
    if kind in _THOUGHTS:
        return None
    if kind == "input_audio":
        return _note("a sound recording")
    if kind in _PICTURES:
        return _note("a picture")
    if kind in _DOCUMENTS:
        name = _name_of(part)
        return _note(f"the file {name}" if name else "a file")
    return _note("something of a kind that could not be read")


def _note(what: str) -> TextBlock:
    return TextBlock(text=f"[Left out here: {what}]")


def _name_of(part: Part) -> str | None:
    try:
        if (own := text_of(part.filename)) is not None:
            return own
        raw = given(part.file)
        return None if raw is None else text_of(msgspec.json.decode(raw, type=_File).filename)
    except msgspec.MsgspecError:
        return None


def _image(part: Part, where: str, files: NamedFiles) -> ImageBlock:
    if given(part.file_id) is not None:
        return _uploaded_image(part.file_id, f"{where}.file_id", files)
    # Some clients send the URL itself instead of the object.
    url = text_of(part.image_url)
    if url is None:
        holder = _object(part.image_url, _Picture, f"{where}.image_url")
        if given(holder.file_id) is not None:
            return _uploaded_image(holder.file_id, f"{where}.image_url.file_id", files)
        url = _string(holder.url, f"{where}.image_url.url")
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


def _uploaded_image(id: Json, param: str, files: NamedFiles) -> ImageBlock:
    file = _uploaded(id, param, files)
    if file.media_type not in IMAGE_TYPES:
        raise RequestRefused(
            f"The file is no picture of one of these types: {', '.join(sorted(IMAGE_TYPES))}.",
            param=param,
        )
    return ImageBlock(media_type=file.media_type, data=file.data)


def _uploaded(id: Json, param: str, files: NamedFiles) -> GivenFile:
    file = files.get(_string(id, param))
    if file is None:
        raise RequestRefused(
            "There is no file with this id, or no longer. Upload it to /v1/files.", param=param
        )
    return file


def _file(file: _File, where: str, files: NamedFiles) -> ContentBlock | None:
    if given(file.file_id) is not None:
        found = _uploaded(file.file_id, f"{where}.file_id", files)
        return _document(
            found.media_type, found.data, filename=found.name, param=f"{where}.file_id"
        )
    param = f"{where}.file_data"
    if given(file.file_data) is None:
        raise RequestRefused(
            "Send the file inline, in `file_data` as a data: URL, or upload it to /v1/files and "
            "send its `file_id`.",
            param=param,
        )
    value = _string(file.file_data, param)
    filename = text_of(file.filename)
    if value.startswith("data:"):
        media_type, data = _data_url(value, param)
    elif value.startswith(("http://", "https://")):
        raise RequestRefused("File URLs are not fetched. Send the file inline.", param=param)
    else:
        # OpenAI's own examples of PDF input once showed plain base64.
        media_type, data = PDF, _checked_base64(value, param)
    return _document(media_type, data, filename=filename, param=param)


def _document(
    media_type: str, data: str, *, filename: str | None, param: str
) -> ContentBlock | None:
    if media_type == PDF:
        return DocumentBlock(media_type=media_type, data=data, filename=filename)
    if media_type in IMAGE_TYPES:
        return ImageBlock(media_type=media_type, data=data)
    if media_type.startswith("text/") or media_type == "application/json":
        return _text_file(data, filename, param)
    # Anything else may be a key, and is not repeated in the error.
    shown = f"type {media_type}" if _MEDIA_TYPE.fullmatch(media_type) else "that type"
    raise RequestRefused(
        f"Files of {shown} are not supported: send PDF documents, text or pictures.",
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
    """Checked here, so that the caller gets the error and not the agent's model.

    Works in slices, so that a thread that checks a large one lets others run in between.
    """
    if not data:
        raise RequestRefused("The base64 data is empty.", param=param)
    is_padded_early = -1 < data.find("=") < len(data) - 2
    try:
        if is_padded_early:
            raise ValueError
        for start in range(0, len(data), _SLICE_CHARS):
            binascii.a2b_base64(data[start : start + _SLICE_CHARS], strict_mode=True)
    except (binascii.Error, ValueError):
        raise RequestRefused("The base64 data is broken.", param=param) from None
    return data


def _object(value: Json, kind: type[S], where: str) -> S:
    raw = given(value)
    try:
        return msgspec.json.decode(b"null" if raw is None else raw, type=kind)
    except msgspec.MsgspecError:
        raise RequestRefused(f"`{where}` must be an object.", param=where) from None


def _string(value: Json, where: str) -> str:
    text = text_of(value)
    if text is None:
        raise RequestRefused(f"`{where}` must be a string.", param=where)
    return text
