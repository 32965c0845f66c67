"""Brings the files of a turn's messages into its conversation's workspace, before the turn starts.

Inline files come with the request; the others are read from the file store piece by piece, so that
one of any size takes the memory of a piece. Repeated after a crash, or by the next owner, it finds
what is there and writes nothing twice. If it is cancelled, a file that has not fully arrived leaves
nothing.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import errno
import hashlib
import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, replace

from infra.files.names import object_name
from infra.runtime.logs import fields
from infra.store.turns.records import Unheard
from infra.wire.endings import declared_end
from infra.wire.errors import (
    AgClusterError,
    ContainerFailed,
    ErrorCode,
    FileGone,
    FileStoreUnavailable,
)
from infra.wire.events import TurnEnded
from infra.wire.file_kinds import HEAD_BYTES, PDF, PICTURES, is_text_in, media_type_of, text_in
from infra.wire.file_names import safe_name
from infra.wire.turns import (
    ContentBlock,
    DocumentBlock,
    FileBlock,
    ImageBlock,
    TextBlock,
    TurnRequest,
)
from infra.wire.words import Case
from worker.hosts.folders.uploads import UploadFolder
from worker.hosts.host import WORKSPACE_AT
from worker.ownership import HeldLease
from worker.parts import ConversationParts
from worker.turns.sent_files import (
    PICTURES_MAX,
    LandedFile,
    RoomToShow,
    SentFile,
    files_in,
    notices_for,
    size_of,
    told,
    without_older_pictures,
)

log = logging.getLogger(__name__)

EARLIER_MAX = 100
"""Files of earlier messages that are delivered, the latest first."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class NotDelivered(AgClusterError):
    """The turn cannot start without these files. `end` says why, to its user."""

    def __init__(self, why: ErrorCode | Case) -> None:
        self.end: TurnEnded = declared_end(why)
        super().__init__(self.end.error.message if self.end.error else "")


@dataclass(frozen=True)
class DeliveredTurn:
    """A turn as its agent is told of it: its files are in the workspace."""

    request: TurnRequest
    unheard: tuple[Unheard, ...] = ()
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Wanted:
    """A file that the workspace is to have."""

    file: SentFile
    name: str
    digest: str
    size: int
    media_type: str
    is_text: bool
    is_needed: bool
    """The turn does not start without it."""


class FilesIn:
    """Delivers the files of one conversation's turns."""

    def __init__(self, parts: ConversationParts, held: HeldLease) -> None:
        self._parts = parts
        self._held = held

    async def deliver(
        self, request: TurnRequest, unheard: tuple[Unheard, ...], *, with_history: bool
    ) -> DeliveredTurn:
        """Bring all files there, those of the history only if the agent is told of it.

        Raises `NotDelivered`, `ContainerFailed` and `LeaseLost`.
        """
        needed = [*request.prompt, *(block for one in unheard for block in one.prompt)]
        earlier = [
            block
            for message in (request.history if with_history else ())
            if message.role == "user"
            for block in message.content
        ]
        if not any(True for _ in files_in([*needed, *earlier])):
            return DeliveredTurn(request, unheard)
        await self._held.until_sure()
        uploads = UploadFolder(self._parts.folders, self._held.conversation, self._held.fence)
        try:
            landed = await _OneDelivery(self._parts, self._held, uploads).land(needed, earlier)
        except OSError as error:
            if error.errno in _FULL:
                raise NotDelivered(Case.FILES_DO_NOT_FIT) from error
            raise ContainerFailed(f"its files cannot be delivered: {error}") from error
        finally:
            uploads.close()
        return _told_of(request, unheard, landed)


class _OneDelivery:
    """The files of one turn."""

    def __init__(self, parts: ConversationParts, held: HeldLease, uploads: UploadFolder) -> None:
        self._parts = parts
        self._held = held
        self._uploads = uploads
        self._room = RoomToShow()
        self._paths = dict[tuple[str, str], str]()

    async def land(
        self, needed: Sequence[ContentBlock], earlier: Sequence[ContentBlock]
    ) -> dict[int, LandedFile]:
        """Bring them into the workspace. Returns where they are, by the `id` of their block."""
        wanted = [await self._wanted(file, is_needed=True) for file in files_in(needed)]
        for file in list(files_in(earlier))[-EARLIER_MAX:]:
            try:
                wanted.append(await self._wanted(file, is_needed=False))
            except NotDelivered as error:
                log.info("an earlier file is left out: %s", error)
        missing = await self._missing(wanted)
        left = await self._fitting(missing)
        landed = dict[int, LandedFile]()
        for one in wanted:
            if one not in left:
                try:
                    landed[id(one.file)] = await self._landed(one)
                except NotDelivered as error:
                    if one.is_needed:
                        raise
                    log.info("an earlier file is left out: %s", error)
        return landed

    async def _wanted(self, file: SentFile, *, is_needed: bool) -> _Wanted:
        if isinstance(file, FileBlock):
            head = await self._head(file)
            media_type = media_type_of(head, said=file.media_type, name=file.filename or "")
            digest, is_text = file.digest, is_text_in(head)
        else:
            is_text = False
            content = await asyncio.to_thread(_decoded, file.data)
            media_type = file.media_type
            digest = await asyncio.to_thread(lambda: hashlib.sha256(content).hexdigest())
        name = safe_name(file.filename, media_type)
        return _Wanted(file, name, digest, size_of(file), media_type, is_text, is_needed)

    async def _head(self, file: FileBlock) -> bytes:
        if file.data is not None:
            return _decoded(file.data[: HEAD_BYTES * 4 // 3 // 4 * 4])
        end = min(file.bytes, HEAD_BYTES)
        return b"".join([piece async for piece in self._stored(file, end)])

    async def _missing(self, wanted: Iterable[_Wanted]) -> list[_Wanted]:
        """Those that are not there yet."""
        missing = list[_Wanted]()
        for one in wanted:
            find = self._uploads.find
            path = await asyncio.to_thread(find, one.name, digest=one.digest, size=one.size)
            if path is None:
                missing.append(one)
            else:
                self._paths[one.name, one.digest] = path
        return missing

    async def _fitting(self, missing: Sequence[_Wanted]) -> list[_Wanted]:
        """Those earlier ones for which there is no room. Raises `NotDelivered` if there is none for
        the others."""
        if not missing:
            return []
        parts = self._parts
        folders = parts.folders.of(self._held.conversation)
        taken = await parts.gauge.measure(folders.workspace, folders.sockets)
        left = parts.isolation.workspace_max_mb * 1024 * 1024 - taken
        out = list[_Wanted]()
        for one in sorted(missing, key=lambda one: not one.is_needed):
            if one.size <= left:
                left -= one.size
            elif one.is_needed:
                raise NotDelivered(Case.FILES_DO_NOT_FIT)
            else:
                out.append(one)
        return out

    async def _landed(self, one: _Wanted) -> LandedFile:
        shown = await self._shown(one)
        path = self._paths.get((one.name, one.digest))
        if path is None:
            path = await self._written(one)
            self._paths[one.name, one.digest] = path
            log.info(
                "file delivered",
                extra=fields(conversation=self._held.conversation, bytes=one.size),
            )
        return LandedFile(f"{WORKSPACE_AT}/{path}", one.media_type, one.size, shown)

    async def _shown(self, one: _Wanted) -> ContentBlock | None:
        """What the model sees of it at once."""
        file = one.file
        if not isinstance(file, FileBlock):
            return file
        is_seen = one.media_type in PICTURES or one.media_type == PDF
        if not is_seen and not one.is_text:
            return None
        if not one.size or not self._room.may_show(one.media_type, one.size):
            return None
        content = b"".join([piece async for piece in self._pieces(file)])
        if not is_seen:
            text = text_in(content)
            return None if text is None or not text.strip() else TextBlock(text=text)
        data = base64.b64encode(content).decode("ascii")
        if one.media_type == PDF:
            return DocumentBlock(media_type=PDF, data=data, filename=file.filename)
        return ImageBlock(media_type=one.media_type, data=data)

    async def _written(self, one: _Wanted) -> str:
        """Write it, and return its path in the workspace."""
        uploads, check = self._uploads, hashlib.sha256()
        upload = await asyncio.to_thread(uploads.begin)
        try:
            async for piece in self._pieces(one.file):
                check.update(piece)
                await asyncio.to_thread(upload.write, piece)
            if check.hexdigest() != one.digest:
                raise NotDelivered(Case.SENT_FILE_GONE)
            # The machine may have been suspended for longer than the lease.
            await self._held.until_sure()
            settle = uploads.settle
            return await asyncio.to_thread(
                settle, upload, one.name, digest=one.digest, size=one.size
            )
        finally:
            uploads.drop(upload)

    async def _pieces(self, file: SentFile) -> AsyncIterator[bytes]:
        if file.data is not None:
            yield await asyncio.to_thread(_decoded, file.data)
            return
        assert isinstance(file, FileBlock)
        async for piece in self._stored(file, file.bytes):
            yield piece

    async def _stored(self, file: FileBlock, end: int) -> AsyncIterator[bytes]:
        """The bytes of a file of the file store, to before `end`."""
        store = self._parts.files
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


def _told_of(
    request: TurnRequest, unheard: tuple[Unheard, ...], landed: dict[int, LandedFile]
) -> DeliveredTurn:
    """The request as the agent is told of it."""
    contents = [message.content for message in request.history]
    before = sum(isinstance(block, ImageBlock) for content in contents for block in content)
    prompt = told(request.prompt, landed)
    others = tuple(replace(one, prompt=told(one.prompt, landed)) for one in unheard)
    now = [block for content in (prompt, *(one.prompt for one in others)) for block in content]
    pictures = sum(isinstance(block, ImageBlock) for block in now)
    history = without_older_pictures(
        [told(content, landed) for content in contents], most=max(0, PICTURES_MAX - pictures)
    )
    messages = zip(request.history, history, strict=True)
    return DeliveredTurn(
        request.model_copy(
            update={
                "prompt": prompt,
                "history": tuple(
                    message.model_copy(update={"content": content}) for message, content in messages
                ),
            }
        ),
        others,
        notices_for(now, before + pictures, prompt_pictures=pictures),
    )


def _decoded(data: str) -> bytes:
    try:
        return base64.b64decode(data)
    except binascii.Error as error:
        raise NotDelivered(Case.SENT_FILE_GONE) from error
