"""Records of spares: whose each is, and which conversation has claimed it.

One small file per spare under `<data_dir>/p/`, which no agent can reach. The engine knows a
container by the name under which it was made, and cannot change that. So this record says whose it
has become. It is written before anything is done: the spare's record before its container is
started, and a claim before a folder is moved. A worker that changes a record, or moves its folders,
holds the record's lock; the kernel releases it when a process ends. So a spare is claimed once, by
one worker of the host, and a claim whose worker died is finished by the next one.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from infra.wire.ids import ConversationKey, Fence, WorkerId
from worker.hosts.folders.locks import lock_file

LOCK_S = 5.0
_FOLDER = "p"
_KEY = re.compile(r"[0-9a-f]{24}")
_TO_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_BYTES = 1024
NO_FENCE = Fence(0)


class NotToBeHad(OSError):
    """The spare is claimed, gone, or another worker's by now."""


@dataclass(frozen=True)
class SpareRecord:
    """A spare, known by the key under which its container and its folders were made."""

    spare: ConversationKey
    worker: WorkerId
    """The worker that made it, the only one that may claim it."""
    claimed_by: ConversationKey | None = None
    fence: Fence = NO_FENCE
    """The fence of the conversation's owner at the time of the claim."""
    is_settled: bool = False
    """Whether the folders have become the conversation's."""


class HeldSpare:
    """A record that we have locked."""

    def __init__(self, folder: int, fd: int, record: SpareRecord) -> None:
        self._folder = folder
        self._fd = fd
        self.record = record

    def write(self, record: SpareRecord) -> None:
        """Replace the record."""
        _write(self._fd, record)
        self.record = record

    def forget(self) -> None:
        """Remove the record."""
        os.unlink(self.record.spare, dir_fd=self._folder)


class SpareRecords:
    """The records of one data directory. All methods block, for milliseconds, and raise
    `OSError`."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / _FOLDER

    @property
    def are_there(self) -> bool:
        """Whether this host has ever had spares. One look at a folder."""
        return self._path.exists()

    def make(self, record: SpareRecord) -> None:
        """Write a new record."""
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(self._path / record.spare, flags, 0o600)
        try:
            _write(fd, record)
        finally:
            os.close(fd)

    def all(self) -> list[SpareRecord]:
        """Every record."""
        try:
            names = sorted(entry.name for entry in os.scandir(self._path))
        except FileNotFoundError:
            return []
        found = (self.get(ConversationKey(name)) for name in names)
        return [record for record in found if record is not None]

    def get(self, spare: ConversationKey) -> SpareRecord | None:
        """The record of one spare; None if there is none, or it cannot be read."""
        if not _KEY.fullmatch(spare):
            return None
        with contextlib.suppress(OSError):
            fd = os.open(self._path / spare, _TO_READ)
            try:
                return _read(os.pread(fd, _BYTES, 0), spare)
            finally:
                os.close(fd)
        return None

    @contextlib.contextmanager
    def held(self, spare: ConversationKey, *, timeout_s: float = LOCK_S) -> Iterator[HeldSpare]:
        """The locked record. Raises `NotToBeHad` if there is none, and `LockBusy`."""
        if self.get(spare) is None:
            raise NotToBeHad(f"spare {spare} is gone")
        folder = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fd = lock_file(folder, spare, timeout_s=timeout_s)
            try:
                record = _read(os.pread(fd, _BYTES, 0), spare)
                if record is None:
                    # Opening it for the lock has created it.
                    os.unlink(spare, dir_fd=folder)
                    raise NotToBeHad(f"spare {spare} is gone")
                yield HeldSpare(folder, fd, record)
            finally:
                os.close(fd)
        finally:
            os.close(folder)


def _write(fd: int, record: SpareRecord) -> None:
    """In one call and one length, so that no reader finds half of it."""
    os.pwrite(fd, json.dumps(asdict(record)).encode().ljust(_BYTES), 0)


def _read(raw: bytes, spare: ConversationKey) -> SpareRecord | None:
    """None unless it is a record of this spare in every field. The engine proxy makes paths of it,
    and a worker that was taken over may have written anything."""
    try:
        record = SpareRecord(**json.loads(raw))
    except (ValueError, TypeError, RecursionError):
        return None
    is_sound = (
        record.spare == spare
        and isinstance(record.worker, str)
        and (record.claimed_by is None or _is_key(record.claimed_by))
        and type(record.fence) is int
        and isinstance(record.is_settled, bool)
    )
    return record if is_sound else None


def _is_key(value: object) -> bool:
    return isinstance(value, str) and _KEY.fullmatch(value) is not None
