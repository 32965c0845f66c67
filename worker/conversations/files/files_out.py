"""Keeps what a turn has made in the file store, before the turn ends.

The worker does it from outside, so it works whatever has become of the agent. A turn that called no
tool has made nothing, and is not looked at. Everything is bounded: how many files, how large, how
long. What is not kept is named with the reason, and the turn ends as it would have.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress
from functools import partial

from infra.files.names import object_name
from infra.files.store import PIECE_BYTES
from infra.runtime.identity import new_file_id
from infra.runtime.logs import fields
from infra.store.files.files import FileFacts, FileQuota, FileRecord
from infra.store.turns.records import TurnRecord
from infra.wire.errors import AgClusterError, ErrorCode, FileNotKept, LeaseLost
from infra.wire.events import Artifact, TurnEnded, TurnFiles
from infra.wire.files.kinds import HEAD_BYTES, media_type_of
from infra.wire.ids import FileId, TenantId
from infra.wire.states import TurnState
from worker.conversations.threads import to_its_end
from worker.hosts.folders.made import FoundFiles, MadeFile, file_time_ns, look, open_made
from worker.hosts.host import ContainerId
from worker.ownership import HeldLease
from worker.parts import ConversationParts, FilesKept
from worker.turns.run import TurnRun

log = logging.getLogger(__name__)

OUTPUT_PURPOSE = "assistants_output"
NAMED_MAX = 10
"""Files that are not kept, but named."""
PATH_MAX_CHARS = 255
END_MAX_CHARS = 20
"""What is longer is no file name's extension."""
MARK_CHARS = 8
GONE = "the conversation is gone"
BEFORE_MAX = 5
"""Turns before one that was taken over which are asked when they ended."""
AFTER_FAILURE_S = 5.0
"""A turn that did not end well keeps what can be kept in this time."""


class _NotKept(Exception):
    """Why a file is not kept, in a few words for the user."""


class FilesOut:
    """Keeps the files of one conversation's turns."""

    def __init__(self, parts: ConversationParts, held: HeldLease) -> None:
        self._parts = parts
        self._held = held
        self._container: ContainerId | None = None
        self._looked_ns: int | None = None
        self._seen = frozenset[MadeFile]()
        """What the last look found. It may have begun in the same tick of the kernel's clock in
        which these were made."""
        self._keeping: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Let files that are given up for their turn break off in their own time, which with some
        stores takes a minute. Runs until cancelled."""
        async with asyncio.TaskGroup() as self._keeping:
            await asyncio.Event().wait()

    def begin(self, container: ContainerId | None) -> None:
        """A turn begins in that container.

        What an agent does on its own between two turns counts for the second one, unless its
        container is a new one, whose files may have been moved in.
        """
        if container != self._container:
            self._looked_ns = None
        self._container = container

    async def keep(self, run: TurnRun, end: TurnEnded) -> TurnFiles | None:
        """Keep what the agent has made since the last look, or in this turn; None if that is
        nothing.

        Raises `LeaseLost` only.
        """
        kept, record = self._parts.kept_files, run.claimed.record
        if kept is None or not kept.settings.artifacts_max:
            return None
        if end.error is not None and end.error.code is ErrorCode.WORKSPACE_FULL:
            return None
        told_ns = run.told_ns
        if told_ns is None and run.claimed.is_adoption:
            told_ns = await self._begun_ms(record) * 1_000_000
        if told_ns is None:
            return None
        await self._held.until_sure()
        found = await self._look(told_ns, sent_until_ns=max(told_ns, run.fetched_ns or 0))
        if not found.files and found.is_whole:
            return None
        limit_s = kept.settings.artifact_keep_s
        if end.state is not TurnState.DONE:
            limit_s = min(limit_s, AFTER_FAILURE_S)
        assert self._keeping is not None, "runs beside all turns"
        one = _OneTurn(self._parts, kept, self._held, record.tenant, self._keeping)
        if run.claimed.is_adoption:
            await one.see_earlier()
        made = await one.keep(found, limit_s=limit_s)
        profile = run.claimed.profile
        display = profile.artifact_display if profile else None
        return made.model_copy(update={"display": display})

    async def _begun_ms(self, record: TurnRecord) -> int:
        """When a turn that was taken over can have begun, at the earliest: when it was asked, and
        the turns that it waited for had ended. Unix ms."""
        at_ms = record.created_ms
        try:
            turns = list(await self._parts.conversations.turns(record.conversation))
            place = turns.index(record.turn) if record.turn in turns else 0
            for turn in turns[max(0, place - BEFORE_MAX) : place]:
                if (before := await self._parts.turns.get(turn)) is not None:
                    at_ms = max(at_ms, before.ended_ms or 0)
        except AgClusterError as error:
            log.warning("earlier turns not known: %s", error, extra=fields(turn=record.turn))
        return at_ms

    async def _look(self, told_ns: int, *, sent_until_ns: int) -> FoundFiles:
        began_ns = file_time_ns()
        try:
            found = await asyncio.to_thread(
                look,
                self._parts.folders,
                self._held.conversation,
                self._held.fence,
                since_ns=told_ns if self._looked_ns is None else self._looked_ns,
                sent_until_ns=sent_until_ns,
            )
        except OSError as error:
            log.warning(
                "workspace not looked at: %s",
                error.strerror,
                extra=fields(conversation=self._held.conversation),
            )
            return FoundFiles()
        self._looked_ns = began_ns
        seen, self._seen = self._seen, frozenset(found.files)
        found.files = [file for file in found.files if file not in seen]
        return found


class _OneTurn:
    """The files of one turn."""

    def __init__(
        self,
        parts: ConversationParts,
        kept: FilesKept,
        held: HeldLease,
        tenant: TenantId,
        keeping: asyncio.TaskGroup,
    ) -> None:
        self._keeping = keeping
        self._parts = parts
        self._kept = kept
        self._held = held
        self._tenant = tenant
        self._settings = kept.settings
        self._quota = FileQuota(kept.settings.tenant_files_max, kept.settings.tenant_file_bytes_max)
        self._left_bytes = kept.settings.artifact_bytes_max
        self._earlier = dict[str, FileRecord]()
        """By path: what may have been kept already."""
        self._files = list[Artifact]()
        self._not_kept = list[str]()
        self._more = 0

    async def see_earlier(self) -> None:
        """The owner before may have kept files of this turn: they are not kept again."""
        try:
            noted = await self._kept.made.of(self._held.conversation)
            records = await self._kept.records.get_all([one.file for one in noted])
        except AgClusterError as error:
            told = fields(conversation=self._held.conversation)
            log.warning("files kept earlier not known: %s", error, extra=told)
            return
        for one, record in zip(noted, records, strict=True):
            if record is not None:
                self._earlier[one.path] = record

    async def keep(self, found: FoundFiles, *, limit_s: float) -> TurnFiles:
        loop = asyncio.get_running_loop()
        give_up_s = loop.time() + limit_s
        why: str | None = None
        for file in found.files:
            if len(self._files) >= self._settings.artifacts_max:
                why = "too many files"
            if why is None:
                try:
                    self._files.append(await self._in_time(file, give_up_s))
                    continue
                except TimeoutError:
                    why = "out of time"
                except _NotKept as refused:
                    self._leave_out(file, str(refused))
                    continue
            self._leave_out(file, why)
        if not found.is_whole:
            self._more += 1
        log.info(
            "files kept",
            extra=fields(
                conversation=self._held.conversation,
                count=len(self._files),
                left_out=len(self._not_kept) + self._more,
            ),
        )
        return TurnFiles(files=tuple(self._files), not_kept=tuple(self._not_kept), more=self._more)

    async def _in_time(self, file: MadeFile, give_up_s: float) -> Artifact:
        """Keep a file. Raises `TimeoutError`, `_NotKept` and `LeaseLost`."""
        task = self._keeping.create_task(self._outcome(file))
        try:
            left_s = give_up_s - asyncio.get_running_loop().time()
            await asyncio.wait({task}, timeout=max(0.0, left_s))
        finally:
            if not task.done():
                task.cancel()
        if not task.done() or task.cancelled():
            raise TimeoutError
        if isinstance(outcome := task.result(), Artifact):
            return outcome
        raise outcome

    async def _outcome(self, file: MadeFile) -> Artifact | _NotKept | LeaseLost:
        try:
            return await self._keep_one(file)
        except (_NotKept, LeaseLost) as error:
            return error
        except AgClusterError as error:
            told = fields(conversation=self._held.conversation)
            log.warning("file not kept: %s", error, extra=told)
            return _NotKept("file store unavailable")
        except Exception:
            # The turn has ended well: whatever it is, only this file is lost.
            log.exception("file not kept", extra=fields(conversation=self._held.conversation))
            return _NotKept("could not be read")

    def _leave_out(self, file: MadeFile, why: str) -> None:
        if len(self._not_kept) < NAMED_MAX:
            self._not_kept.append(f"{shown_path(file.path)} ({why})")
        else:
            self._more += 1

    async def _keep_one(self, file: MadeFile) -> Artifact:
        if file.bytes > min(self._settings.file_max_bytes, self._settings.artifact_bytes_max):
            raise _NotKept("too large")
        if file.bytes > self._left_bytes:
            raise _NotKept("too much in one turn")
        c, fence = self._held.conversation, self._held.fence
        with ExitStack() as held:

            def opened() -> int:
                fd = open_made(self._parts.folders, c, fence, file)
                held.callback(os.close, fd)
                return fd

            try:
                fd = await to_its_end(opened)
            except OSError:
                raise _NotKept("could not be read") from None
            earlier = self._earlier.get(shown_path(file.path))
            if earlier is not None and await _is_same(earlier, _Reading(fd, file.bytes)):
                return self._made(file, earlier)
            return await self._keep_open(file, _Reading(fd, file.bytes))

    async def _keep_open(self, file: MadeFile, reading: _Reading) -> Artifact:
        records, store = self._kept.records, await self._kept.files.identity()
        id = new_file_id(self._parts.clock.unix_ms())
        path = shown_path(file.path)
        life_s = self._settings.artifact_life_s
        try:
            room = await records.begin(
                id, self._tenant, store=store, announced=file.bytes, quota=self._quota
            )
            if room != "ok":
                raise _NotKept("no room left for this API key")
            # Noted on record and before its bytes: a delete of the conversation finds it from now
            # on, and one that came first is noticed.
            if not await self._kept.made.note(self._held.conversation, id, path, life_s=life_s):
                raise _NotKept(GONE)
            await self._kept.files.put(object_name(id), reading)
            record = await records.keep(
                id,
                self._tenant,
                FileFacts(
                    name=path.rpartition("/")[2],
                    type=media_type_of(reading.head, name=path),
                    purpose=OUTPUT_PURPOSE,
                    digest=reading.digest,
                    bytes=file.bytes,
                    life_s=life_s,
                ),
                store=store,
            )
        except FileNotKept:
            raise _NotKept(GONE) from None
        except BaseException:
            await self._remove(id)
            raise
        assert record is not None, "only the file of an upload may be closed"
        return self._made(file, record)

    def _made(self, file: MadeFile, record: FileRecord) -> Artifact:
        assert record.expires_ms is not None, "what an agent makes has an end"
        self._left_bytes -= file.bytes
        return Artifact(
            file=record.id,
            path=shown_path(file.path),
            bytes=file.bytes,
            media_type=record.type,
            expires_ms=record.expires_ms,
        )

    async def _remove(self, id: FileId) -> None:
        # Whatever is left is removed by a sweep, which finds it by its record.
        with suppress(AgClusterError, TimeoutError, asyncio.CancelledError):
            async with asyncio.timeout(1.0):
                await self._kept.records.drop(id)


class _Reading:
    """The bytes of an open file, read a piece at a time in a thread."""

    def __init__(self, fd: int, size: int) -> None:
        self.head = b""
        self._fd = fd
        self.size = size
        self._digest = hashlib.sha256()
        self._before = os.fstat(fd)

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        read = 0
        while read < self.size:
            most = min(PIECE_BYTES, self.size - read)
            piece = await to_its_end(partial(os.pread, self._fd, most, read))
            if not piece:
                break
            read += len(piece)
            self._digest.update(piece)
            if len(self.head) < HEAD_BYTES:
                self.head += piece[: HEAD_BYTES - len(self.head)]
            yield piece
        now = os.fstat(self._fd)
        is_same = (now.st_size, now.st_mtime_ns) == (self.size, self._before.st_mtime_ns)
        if read != self.size or not is_same:
            raise _NotKept("changed while it was read")


async def _is_same(earlier: FileRecord, reading: _Reading) -> bool:
    if earlier.bytes != reading.size:
        return False
    async for _ in reading:
        pass
    return reading.digest == earlier.digest


def shown_path(path: str) -> str:
    """A path for people: what is no text, or what nobody sees, is replaced; a long one loses its
    beginning. One that was changed gets a mark of what it was, so that no two become the same."""
    raw = os.fsencode(path)
    text = raw.decode("utf-8", "replace")
    shown = "".join(sign if sign.isprintable() else "\ufffd" for sign in text)
    if shown.encode() == raw and len(shown) <= PATH_MAX_CHARS:
        return shown
    stem, end = os.path.splitext(shown)
    if len(end) > END_MAX_CHARS:
        stem, end = shown, ""
    end = f"~{hashlib.sha256(raw).hexdigest()[:MARK_CHARS]}{end}"
    room = PATH_MAX_CHARS - len(end)
    return (stem if len(stem) <= room else "…" + stem[1 - room :]) + end
