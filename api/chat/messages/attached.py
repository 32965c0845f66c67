"""Reads the pictures, files and sounds of a message's content (`api.files.blocks`). Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

import msgspec
from msgspec import Struct

from api.chat.request import Json, Part, given, text_of
from api.files.blocks import Attached, InlineFile, file_at_url, inline_file, stored_file
from infra.store.files.files import FileRecord
from infra.wire.errors import RequestRefused
from infra.wire.files.kinds import PDF
from infra.wire.turns import FileBlock

S = TypeVar("S", bound=Struct)

PICTURE_PARTS = frozenset({"image_url", "input_image"})
FILE_PARTS = frozenset({"file", "input_file"})
AUDIO_PARTS = frozenset({"input_audio"})

FILES_MAX = 50
_FORMAT = re.compile(r"[a-z0-9]{1,16}")
_SOUNDS = {"mp3": "audio/mpeg"}
_AUDIO_NAME = "recording"


class NamedFiles:
    """The caller's files that the messages name. Without `known`, nothing is known of them yet, and
    `newest` and `earlier` collect their ids, in the order in which they are named."""

    def __init__(
        self,
        known: Mapping[str, FileRecord] | None = None,
        *,
        files_max: int = FILES_MAX,
        are_urls_fetched: bool = False,
    ) -> None:
        self._known = known
        self.files_max = files_max
        """Those that the newest message may carry, inline ones among them."""
        self.are_urls_fetched = are_urls_fetched
        self.newest = dict[str, None]()
        """Those in the newest message."""
        self.earlier = dict[str, None]()

    @property
    def is_asked(self) -> bool:
        """Whether the messages name any."""
        return bool(self.newest or self.earlier)

    def get(self, id: str, *, is_newest: bool) -> FileBlock | None:
        """The file; None if there is none. Something in its place as long as nothing is known."""
        if self._known is None:
            (self.newest if is_newest else self.earlier)[id] = None
            return FileBlock(media_type="", bytes=0, digest="")
        if (record := self._known.get(id)) is None:
            return None
        return stored_file(record)


class _Picture(Struct, frozen=True):
    url: Json = msgspec.UNSET
    file_id: Json = msgspec.UNSET


class _File(Struct, frozen=True):
    file_id: Json = msgspec.UNSET
    file_data: Json = msgspec.UNSET
    file_url: Json = msgspec.UNSET
    filename: Json = msgspec.UNSET


class _Audio(Struct, frozen=True):
    data: Json = msgspec.UNSET
    format: Json = msgspec.UNSET


def attached(part: Part, where: str, files: NamedFiles, *, is_newest: bool) -> Attached | None:
    """What a part of a message's content carries; None if it is no such part.

    Raises `RequestRefused`, naming what to change.
    """
    kind = text_of(part.type)
    if kind in PICTURE_PARTS:
        return _picture(part, where, files, is_newest=is_newest)
    if kind == "file":
        where = f"{where}.file"
        return _file(_object(part.file, _File, where), where, files, is_newest=is_newest)
    if kind == "input_file":
        file = _File(part.file_id, part.file_data, part.file_url, part.filename)
        return _file(file, where, files, is_newest=is_newest)
    if kind in AUDIO_PARTS:
        where = f"{where}.input_audio"
        return _audio(_object(part.input_audio, _Audio, where), where)
    return None


def name_of(part: Part) -> str | None:
    """What the sender calls the file of a part, if anything."""
    try:
        if (own := text_of(part.filename)) is not None:
            return own
        raw = given(part.file)
        return None if raw is None else text_of(msgspec.json.decode(raw, type=_File).filename)
    except msgspec.MsgspecError:
        return None


def _picture(part: Part, where: str, files: NamedFiles, *, is_newest: bool) -> Attached:
    if given(part.file_id) is not None:
        return _uploaded(part.file_id, f"{where}.file_id", files, is_newest=is_newest)
    # Some clients send the URL itself instead of the object.
    url = text_of(part.image_url)
    if url is None:
        holder = _object(part.image_url, _Picture, f"{where}.image_url")
        if given(holder.file_id) is not None:
            param = f"{where}.image_url.file_id"
            return _uploaded(holder.file_id, param, files, is_newest=is_newest)
        url = _string(holder.url, f"{where}.image_url.url")
    param = f"{where}.image_url.url"
    if not url.startswith("data:"):
        return file_at_url(url, param, filename=None, are_urls_fetched=files.are_urls_fetched)
    return _data_url(url, param).block(None)


def _file(file: _File, where: str, files: NamedFiles, *, is_newest: bool) -> Attached:
    if given(file.file_id) is not None:
        return _uploaded(file.file_id, f"{where}.file_id", files, is_newest=is_newest)
    param = f"{where}.file_data"
    if given(file.file_data) is None:
        if given(file.file_url) is not None:
            param = f"{where}.file_url"
            url = _string(file.file_url, param)
            return file_at_url(
                url,
                param,
                filename=text_of(file.filename),
                are_urls_fetched=files.are_urls_fetched,
            )
        raise RequestRefused(
            "Send the file inline, in `file_data` as a data: URL, or upload it to /v1/files and "
            "send its `file_id`.",
            param=param,
        )
    value = _string(file.file_data, param)
    filename = text_of(file.filename)
    if value.startswith("data:"):
        return _data_url(value, param).block(filename)
    if value.startswith(("http://", "https://")):
        return file_at_url(value, param, filename=filename, are_urls_fetched=files.are_urls_fetched)
    # OpenAI's own examples of PDF input once showed plain base64.
    is_pdf = filename is None or filename.lower().endswith(".pdf")
    return inline_file(PDF if is_pdf else "", value, param).block(filename)


def _audio(audio: _Audio, where: str) -> Attached:
    format = _string(audio.format, f"{where}.format").lower()
    if not _FORMAT.fullmatch(format):
        raise RequestRefused(
            "`format` must be a short name, such as wav or mp3.", param=f"{where}.format"
        )
    param = f"{where}.data"
    value = _string(audio.data, param)
    media_type = _SOUNDS.get(format, f"audio/{format}")
    found = _data_url(value, param) if value.startswith("data:") else inline_file("", value, param)
    return found._replace(media_type=media_type).block(f"{_AUDIO_NAME}.{format}")


def _uploaded(id: Json, param: str, files: NamedFiles, *, is_newest: bool) -> FileBlock:
    file = files.get(_string(id, param), is_newest=is_newest)
    if file is None:
        raise RequestRefused(
            "There is no file with this id, or no longer. Upload it to /v1/files.", param=param
        )
    return file


def _data_url(url: str, param: str) -> InlineFile:
    head, comma, data = url.partition(",")
    media_type, *options = head.removeprefix("data:").split(";")
    if not comma or "base64" not in options:
        raise RequestRefused("The data: URL must hold base64 data.", param=param)
    media_type = media_type.strip().lower() or "text/plain"
    return inline_file(media_type, data, param)


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
