"""The owner of a data folder: one cluster on one host.

Files without a record of ours are removed after a while, so a second cluster on the same folder
would lose its files to the first. Every worker locks the folder's file `owner` while it runs, and a
worker of another owner is refused. Two clusters may have the same name on two Redis servers; they
are told apart by the epoch of their Redis.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from infra.wire.errors import AgClusterError

_FILE = "owner"
_PATIENCE_S = 2.0
_PAUSE_S = 0.05


class DataFolderTaken(AgClusterError):
    """Another cluster, or another host of this one, keeps its files there and is running."""


@dataclass(frozen=True)
class DataOwner:
    """A cluster on a host. `epoch`: since when its Redis has had its data."""

    cluster: str
    prefix: str
    host: str
    epoch: int


class HeldFolder:
    """The right to keep files there, until `close` or the end of this process."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def close(self) -> None:
        """Release the folder."""
        os.close(self._fd)


def hold(
    data_dir: Path, owner: DataOwner, *, has_siblings: bool, patience_s: float = _PATIENCE_S
) -> HeldFolder:
    """Blocking. Raises `DataFolderTaken`, and `OSError` if the file cannot be created.

    `has_siblings`: our Redis lists other workers of this host, so the holders of the folder are
    ours, even if their Redis has lost its data since they started.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    give_up_s = time.monotonic() + patience_s
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(data_dir / _FILE, flags, 0o600)
    try:
        while not _joined(fd, owner, has_siblings=has_siblings) and not _written(fd, owner):
            if time.monotonic() > give_up_s:
                raise DataFolderTaken(_refusal(data_dir, fd))
            # flock has no timeout, so this polls.
            time.sleep(_PAUSE_S)
    except BaseException:
        os.close(fd)
        raise
    return HeldFolder(fd)


def _joined(fd: int, owner: DataOwner, *, has_siblings: bool) -> bool:
    """Hold it together with other workers of the same owner."""
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if _is_same(_read(fd), owner, has_siblings=has_siblings):
            return True
        fcntl.flock(fd, fcntl.LOCK_UN)
    return False


def _written(fd: int, owner: DataOwner) -> bool:
    """Take it if nobody else holds it: then what was written there is out of date."""
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _read(fd) != owner:
            # Only if it differs: a full disk must not prevent a worker from restarting.
            os.ftruncate(fd, 0)
            os.pwrite(fd, json.dumps(asdict(owner)).encode(), 0)
        # The kernel does not do this atomically: another worker may have written its own name
        # meanwhile.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return _read(fd) == owner
    return False


def _is_same(found: DataOwner | None, owner: DataOwner, *, has_siblings: bool) -> bool:
    if found is None or (found.cluster, found.prefix, found.host) != (
        owner.cluster,
        owner.prefix,
        owner.host,
    ):
        return False
    return found.epoch == owner.epoch or has_siblings


def _read(fd: int) -> DataOwner | None:
    try:
        return DataOwner(**json.loads(os.pread(fd, 4096, 0)))
    except (ValueError, TypeError):
        return None


def _refusal(data_dir: Path, fd: int) -> str:
    found = _read(fd)
    whose = f"cluster {found.cluster!r} on host {found.host!r}" if found else "another cluster"
    return (
        f"{data_dir} is in use by workers of {whose}, whose files this cluster would remove: set "
        "AGCLUSTER_DATA_DIR to a folder of its own, or stop the others first"
    )
