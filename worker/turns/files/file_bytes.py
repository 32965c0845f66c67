"""The bytes of files that came with a message: inline, or in the file store.

Used to put them into a workspace (`worker.conversations.files.files_in`), and to show them to a
model that has none (`worker.side.run`).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass

from infra.files.names import object_name
from infra.files.store import FileStore
from infra.wire.endings import declared_end
from infra.wire.errors import AgClusterError, ErrorCode, FileGone, FileStoreUnavailable
from infra.wire.events import TurnEnded
from infra.wire.files.kinds import HEAD_BYTES, PDF, PICTURES, is_text_in, media_type_of, text_in
from infra.wire.files.room_to_show import RoomToShow
from infra.wire.text.words import Case
from infra.wire.turns import ContentBlock, DocumentBlock, FileBlock, ImageBlock, TextBlock
from worker.turns.files.sent_files import SentFile, size_of

log = logging.getLogger(__name__)

LOOKED_AT_MAX = 100
"""Files that are looked at for a turn without a workspace, the latest first."""


class NotDelivered(AgClusterError):
    """The turn cannot start without these files. `end` says why, to its user."""

    def __init__(self, why: ErrorCode | Case) -> None:
        self.end: TurnEnded = declared_end(why)
        super().__init__(self.end.error.message if self.end.error else "")


@dataclass(frozen=True)
class KnownFile:
    """A file of a message, and what its bytes say."""

    file: SentFile
    media_type: str
    digest: str
    size: int
    is_text: bool


class FileBytes:
    """All methods raise `NotDelivered`."""

    def __init__(self, store: FileStore | None) -> None:
        self._store = store

    async def known(self, file: SentFile) -> KnownFile:
        """Look at its beginning."""
        if not isinstance(file, FileBlock):
            content = await asyncio.to_thread(_decoded, file.data)
            digest = await asyncio.to_thread(lambda: hashlib.sha256(content).hexdigest())
            return KnownFile(file, file.media_type, digest, size_of(file), is_text=False)
        head = await self._head(file)
        media_type = media_type_of(head, said=file.media_type, name=file.filename or "")
        return KnownFile(file, media_type, file.digest, file.bytes, is_text=is_text_in(head))

    async def pieces(self, file: SentFile) -> AsyncIterator[bytes]:
        """Its bytes, in order."""
        if file.data is not None:
            yield await asyncio.to_thread(_decoded, file.data)
            return
        assert isinstance(file, FileBlock)
        async for piece in self._stored(file, file.bytes):
            yield piece

    async def shown(self, known: KnownFile, room: RoomToShow) -> ContentBlock | None:
        """What a model sees of it at once, if there is room; None if it sees nothing."""
        file = known.file
        if not isinstance(file, FileBlock):
            return file
        is_seen = known.media_type in PICTURES or known.media_type == PDF
        if not (is_seen or known.is_text) or not known.size:
            return None
        if not room.may_show(known.media_type, known.size):
            return None
        content = b"".join([piece async for piece in self.pieces(file)])
        if not is_seen:
            text = text_in(content)
            return None if text is None or not text.strip() else TextBlock(text=text)
        data = base64.b64encode(content).decode("ascii")
        if known.media_type == PDF:
            return DocumentBlock(media_type=PDF, data=data, filename=file.filename)
        return ImageBlock(media_type=known.media_type, data=data)

    async def _head(self, file: FileBlock) -> bytes:
        if file.data is not None:
            return _decoded(file.data[: HEAD_BYTES * 4 // 3 // 4 * 4])
        end = min(file.bytes, HEAD_BYTES)
        return b"".join([piece async for piece in self._stored(file, end)])

    async def _stored(self, file: FileBlock, end: int) -> AsyncIterator[bytes]:
        """The bytes of a file of the file store, to before `end`."""
        store = self._store
        try:
            if store is None or file.file is None or file.store != await store.identity():
                raise NotDelivered(Case.FILE_ELSEWHERE)
            async for piece in store.pieces(object_name(file.file), start=0, end=end):
                yield piece
        except FileGone:
            raise NotDelivered(Case.SENT_FILE_GONE) from None
        except FileStoreUnavailable as error:
            log.error("file store: %s", error)
            raise NotDelivered(ErrorCode.FILE_STORE_UNAVAILABLE) from error


async def with_stored_files(
    contents: list[tuple[ContentBlock, ...]], files: FileBytes
) -> list[tuple[ContentBlock, ...]]:
    """The contents with what a model can read of files in the file store, the newest first as long
    as there is room. One that cannot be read is left as it is.

    For a turn without a workspace, which does without a file rather than fail.
    """
    room, shown = RoomToShow(), list[tuple[ContentBlock, ...]]()
    stored = [id(block) for content in contents for block in content if _is_stored(block)]
    looked_at = frozenset(stored[-LOOKED_AT_MAX:])
    for content in reversed(contents):
        shown.append(
            tuple(
                [
                    await _with_content(block, files, room) if id(block) in looked_at else block
                    for block in content
                ]
            )
        )
    return shown[::-1]


def _is_stored(block: ContentBlock) -> bool:
    return isinstance(block, FileBlock) and block.file is not None


async def _with_content(block: ContentBlock, files: FileBytes, room: RoomToShow) -> ContentBlock:
    assert isinstance(block, FileBlock), "it is in the file store"
    try:
        shown = await files.shown(await files.known(block), room)
    except NotDelivered as error:
        log.info("a file is left out: %s", error)
        return block
    if isinstance(shown, TextBlock):
        return TextBlock(text=f"[File {block.filename or 'without a name'}]\n{shown.text}")
    return shown or block


def _decoded(data: str) -> bytes:
    try:
        return base64.b64decode(data)
    except binascii.Error as error:
        raise NotDelivered(Case.SENT_FILE_GONE) from error
