"""Brings the files of a turn's messages into its conversation's workspace, before the turn starts.

Inline files come with the request; the others are read from the file store piece by piece, so that
one of any size takes the memory of a piece. Repeated after a crash, or by the next owner, it finds
what is there and writes nothing twice. If it is cancelled, a file that has not fully arrived leaves
nothing.
"""

from __future__ import annotations

import errno
import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from infra.runtime.logs import fields
from infra.store.turns.records import Unheard
from infra.wire.errors import (
    ContainerFailed,
)
from infra.wire.files.names import safe_name
from infra.wire.files.room_to_show import RoomToShow
from infra.wire.ids import FileId
from infra.wire.text.words import Case
from infra.wire.turns import (
    ContentBlock,
    FileBlock,
    ImageBlock,
    TurnRequest,
)
from worker.conversations.threads import to_its_end
from worker.hosts.folders.uploads import UploadFolder
from worker.hosts.host import WORKSPACE_AT
from worker.ownership import HeldLease
from worker.parts import ConversationParts
from worker.turns.files.file_bytes import FileBytes, KnownFile, NotDelivered
from worker.turns.files.sent_files import (
    PICTURES_MAX,
    LandedFile,
    SentFile,
    files_in,
    latest,
    notices_for,
    told,
    without_older_pictures,
)

log = logging.getLogger(__name__)

EARLIER_MAX = 100
"""Files of earlier messages that are delivered, the latest first."""
EARLIER_MAX_BYTES = 1024 * 1024 * 1024
"""Of these together."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True)
class DeliveredTurn:
    """A turn as its agent is told of it: its files are in the workspace."""

    request: TurnRequest
    unheard: tuple[Unheard, ...] = ()
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Wanted:
    """A file that the workspace is to have."""

    known: KnownFile
    name: str
    is_needed: bool
    """The turn does not start without it."""

    @property
    def size(self) -> int:
        return self.known.size

    @property
    def place(self) -> tuple[str, str]:
        """The same for the same file sent again."""
        return self.name, self.known.digest


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
            await to_its_end(uploads.close)
        return _told_of(request, unheard, landed)

    async def bring(self, files: Sequence[FileBlock], *, into: str) -> dict[FileId, str]:
        """Bring files of the file store into another folder of the workspace while a turn runs, as
        many as there is room for. Returns where they are.

        Raises `LeaseLost`.
        """
        await self._held.until_sure()
        folders, c = self._parts.folders, self._held.conversation
        uploads = UploadFolder(folders, c, self._held.fence, name=into)
        try:
            landed = await _OneDelivery(self._parts, self._held, uploads).land((), files)
        except OSError as error:
            log.warning("files not handed over: %s", error, extra=fields(conversation=c))
            return {}
        finally:
            await to_its_end(uploads.close)
        return {
            one.file: landed[id(one)].path
            for one in files
            if one.file is not None and id(one) in landed
        }


class _OneDelivery:
    """The files of one turn."""

    def __init__(self, parts: ConversationParts, held: HeldLease, uploads: UploadFolder) -> None:
        self._parts = parts
        self._held = held
        self._uploads = uploads
        self._bytes = FileBytes(parts.files)
        self._room = RoomToShow()
        self._paths = dict[tuple[str, str], str]()

    async def land(
        self, needed: Sequence[ContentBlock], earlier: Sequence[ContentBlock]
    ) -> dict[int, LandedFile]:
        """Bring them into the workspace. Returns where they are, by the `id` of their block."""
        wanted = [await self._wanted(file, is_needed=True) for file in files_in(needed)]
        for file in latest(files_in(earlier), most=EARLIER_MAX, most_bytes=EARLIER_MAX_BYTES):
            try:
                wanted.append(await self._wanted(file, is_needed=False))
            except NotDelivered as error:
                log.info("an earlier file is left out: %s", error)
        missing = await self._missing(wanted)
        left = await self._fitting(missing)
        landed = dict[int, LandedFile]()
        for one in wanted:
            if one.place not in left:
                try:
                    landed[id(one.known.file)] = await self._landed(one)
                except NotDelivered as error:
                    if one.is_needed:
                        raise
                    log.info("an earlier file is left out: %s", error)
        return landed

    async def _wanted(self, file: SentFile, *, is_needed: bool) -> _Wanted:
        known = await self._bytes.known(file)
        return _Wanted(known, safe_name(file.filename, known.media_type), is_needed)

    async def _missing(self, wanted: Iterable[_Wanted]) -> list[_Wanted]:
        """Those that are not there yet, each once, however often it is named."""
        missing = dict[tuple[str, str], _Wanted]()
        for one in wanted:
            if one.place in self._paths or one.place in missing:
                continue
            find = partial(self._uploads.find, one.name, digest=one.known.digest, size=one.size)
            path = await to_its_end(find)
            if path is None:
                missing[one.place] = one
            else:
                self._paths[one.place] = path
        return list(missing.values())

    async def _fitting(self, missing: Sequence[_Wanted]) -> frozenset[tuple[str, str]]:
        """The places of those earlier ones for which there is no room. Raises `NotDelivered` if
        there is none for the others."""
        if not missing:
            return frozenset()
        parts = self._parts
        folders = parts.folders.of(self._held.conversation)
        taken = await parts.gauge.measure(folders.workspace, folders.sockets)
        left = parts.isolation.workspace_max_mb * 1024 * 1024 - taken
        out = set[tuple[str, str]]()
        for one in sorted(missing, key=lambda one: not one.is_needed):
            if one.size <= left:
                left -= one.size
            elif one.is_needed:
                raise NotDelivered(Case.FILES_DO_NOT_FIT)
            else:
                out.add(one.place)
        return frozenset(out)

    async def _landed(self, one: _Wanted) -> LandedFile:
        shown = await self._bytes.shown(one.known, self._room)
        path = self._paths.get(one.place)
        if path is None:
            path = await self._written(one)
            self._paths[one.place] = path
            log.info(
                "file delivered",
                extra=fields(conversation=self._held.conversation, bytes=one.size),
            )
        return LandedFile(f"{WORKSPACE_AT}/{path}", one.known.media_type, one.size, shown)

    async def _written(self, one: _Wanted) -> str:
        """Write it, and return its path in the workspace."""
        uploads, check = self._uploads, hashlib.sha256()
        upload = await to_its_end(uploads.begin)
        async for piece in self._bytes.pieces(one.known.file):
            check.update(piece)
            await to_its_end(partial(upload.write, piece))
        if check.hexdigest() != one.known.digest:
            raise NotDelivered(Case.SENT_FILE_GONE)
        # The machine may have been suspended for longer than the lease.
        await self._held.until_sure()
        settle = partial(uploads.settle, upload, one.name, digest=one.known.digest, size=one.size)
        try:
            return await to_its_end(settle)
        finally:
            await to_its_end(partial(uploads.drop, upload))


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
