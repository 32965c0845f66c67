"""Converts the pictures, files and sounds of a message's content to blocks for an agent. Pure.

A file of any type is taken. Pictures and PDF documents that came inline are blocks of their own,
because models see them; everything else is a `FileBlock`, and so is a file that is named by its id.
The worker puts all of them into the workspace.
"""

from __future__ import annotations

import binascii
import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple, TypeVar

import msgspec
from msgspec import Struct

from api.chat.request import Json, Part, given, text_of
from infra.store.files.files import FileRecord
from infra.wire.errors import RequestRefused
from infra.wire.files.kinds import PDF, PICTURES
from infra.wire.turns import DocumentBlock, FileBlock, ImageBlock

S = TypeVar("S", bound=Struct)

PICTURE_PARTS = frozenset({"image_url", "input_image"})
FILE_PARTS = frozenset({"file", "input_file"})
AUDIO_PARTS = frozenset({"input_audio"})

FILES_MAX = 50
_SLICE_CHARS = 1024 * 1024
_NAME_MAX_CHARS = 1024
_MEDIA_TYPE = re.compile(r"[a-z]{1,20}/[a-z0-9.+-]{1,80}")
_URL_MAX_CHARS = 2048
_URL = re.compile(r"https?://[A-Za-z0-9.:\[\]_-]{1,255}(?:[/?#][!-~]{0,1780})?", re.ASCII)
_FORMAT = re.compile(r"[a-z0-9]{1,16}")
_SOUNDS = {"mp3": "audio/mpeg"}
_AUDIO_NAME = "recording"

Attached = ImageBlock | DocumentBlock | FileBlock


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
        return FileBlock(
            media_type=record.type,
            bytes=record.bytes,
            digest=record.digest,
            filename=record.name,
            file=record.id,
            store=record.store,
        )


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


class _Inline(NamedTuple):
    """A file that came with the message."""

    media_type: str
    data: str
    """Base64."""
    bytes: int
    digest: str

    def block(self, filename: str | None) -> Attached:
        name = None if filename is None else filename[:_NAME_MAX_CHARS]
        if self.media_type in PICTURES:
            return ImageBlock(media_type=self.media_type, data=self.data, filename=name)
        if self.media_type == PDF:
            return DocumentBlock(media_type=PDF, data=self.data, filename=name)
        return FileBlock(
            media_type=self.media_type,
            bytes=self.bytes,
            digest=self.digest,
            filename=name,
            data=self.data,
        )


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
        return _at_url(url, param, files, filename=None)
    return _data_url(url, param).block(None)


def _file(file: _File, where: str, files: NamedFiles, *, is_newest: bool) -> Attached:
    if given(file.file_id) is not None:
        return _uploaded(file.file_id, f"{where}.file_id", files, is_newest=is_newest)
    param = f"{where}.file_data"
    if given(file.file_data) is None:
        if given(file.file_url) is not None:
            param = f"{where}.file_url"
            url = _string(file.file_url, param)
            return _at_url(url, param, files, filename=text_of(file.filename))
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
        return _at_url(value, param, files, filename=filename)
    # OpenAI's own examples of PDF input once showed plain base64.
    is_pdf = filename is None or filename.lower().endswith(".pdf")
    return _inline(PDF if is_pdf else "", value, param).block(filename)


def _audio(audio: _Audio, where: str) -> Attached:
    format = _string(audio.format, f"{where}.format").lower()
    if not _FORMAT.fullmatch(format):
        raise RequestRefused(
            "`format` must be a short name, such as wav or mp3.", param=f"{where}.format"
        )
    param = f"{where}.data"
    value = _string(audio.data, param)
    media_type = _SOUNDS.get(format, f"audio/{format}")
    found = _data_url(value, param) if value.startswith("data:") else _inline("", value, param)
    return found._replace(media_type=media_type).block(f"{_AUDIO_NAME}.{format}")


def _uploaded(id: Json, param: str, files: NamedFiles, *, is_newest: bool) -> FileBlock:
    file = files.get(_string(id, param), is_newest=is_newest)
    if file is None:
        raise RequestRefused(
            "There is no file with this id, or no longer. Upload it to /v1/files.", param=param
        )
    return file


def _at_url(url: str, param: str, files: NamedFiles, *, filename: str | None) -> FileBlock:
    """A file that the agent fetches, in its sandbox. Nothing is ever fetched here."""
    if not files.are_urls_fetched:
        raise RequestRefused(
            "URLs are not fetched. Send the file inline, as a data: URL, or upload it to /v1/files "
            "and send its `file_id`.",
            param=param,
        )
    if not _URL.fullmatch(url):
        raise RequestRefused(
            f"The URL must begin with http:// or https://, be in ASCII, name no user, and have at "
            f"most {_URL_MAX_CHARS} characters.",
            param=param,
        )
    digest = hashlib.sha256(b"url:" + url.encode()).hexdigest()
    name = None if filename is None else filename[:_NAME_MAX_CHARS]
    return FileBlock(media_type="", bytes=0, digest=digest, filename=name, url=url)


def _data_url(url: str, param: str) -> _Inline:
    head, comma, data = url.partition(",")
    media_type, *options = head.removeprefix("data:").split(";")
    if not comma or "base64" not in options:
        raise RequestRefused("The data: URL must hold base64 data.", param=param)
    media_type = media_type.strip().lower() or "text/plain"
    # Anything else may be a key.
    return _inline(media_type if _MEDIA_TYPE.fullmatch(media_type) else "", data, param)


def _inline(media_type: str, data: str, param: str) -> _Inline:
    """Checked here, so that the caller gets the error and not the agent's model."""
    if not data:
        raise RequestRefused("The base64 data is empty.", param=param)
    total, digest = 0, hashlib.sha256()
    try:
        for piece in _decoded(data):
            total += len(piece)
            digest.update(piece)
    except (binascii.Error, ValueError):
        raise RequestRefused("The base64 data is broken.", param=param) from None
    return _Inline(media_type, data, total, digest.hexdigest())


def _decoded(data: str) -> Iterator[bytes]:
    """Works in slices, so that a thread that checks a large one lets others run in between."""
    if -1 < data.find("=") < len(data) - 2:
        raise ValueError
    for start in range(0, len(data), _SLICE_CHARS):
        yield binascii.a2b_base64(data[start : start + _SLICE_CHARS], strict_mode=True)


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
