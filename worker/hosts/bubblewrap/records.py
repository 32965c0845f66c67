"""Records of running sandboxes, so that a new worker finds those of an old one.

One folder per sandbox under `<data_dir>/b/`, which only the worker can open:

    record.json   its conversation and owner; written before the process starts
    status        bwrap's own report: the pid of its init, later its exit code
    process.json  pids and start times of that init and of bwrap; written before the agent may run
    log           the agent's standard error

A pid may be reused, so a process is identified by its start time and the boot id as well.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from infra.wire.errors import ContainerFailed
from infra.wire.ids import ConversationKey, Fence
from worker.hosts.folders.locks import LockBusy, lock_file
from worker.hosts.host import ContainerId

LOG_MAX_BYTES = 1024 * 1024
_LOCK = ".lock-"
_REMAINS_S = 600.0
_ID = re.compile(r"[0-9a-f]{24}-[0-9a-f]{8}")


class StartUnderWay(ContainerFailed):
    """Another start of the same conversation holds its lock."""


@dataclass(frozen=True)
class SandboxRecord:
    """One sandbox's identity."""

    id: ContainerId
    conversation: ConversationKey
    fence: Fence
    cluster: str
    host: str
    created_ms: int
    boot: str
    form: str = ""
    """`ContainerForm.text`."""


@dataclass(frozen=True)
class Process:
    """A process, identified so that a later one with the same pid is not mistaken for it."""

    pid: int
    started_ticks: int

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """The process that has this pid now; None if there is none, or only a zombie."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return None
        # The program's name may contain anything, even brackets and spaces.
        after_name = stat.rpartition(")")[2].split()
        if after_name[0] in ("Z", "X"):
            return None
        return cls(pid, int(after_name[19]))

    def is_alive(self) -> bool:
        return Process.of(self.pid) == self

    def open(self) -> int | None:
        """A pidfd, which becomes readable when the process ends; None if it has ended."""
        try:
            fd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return None
        # It was opened by number: make sure that the number still means the same process.
        if self.is_alive():
            return fd
        os.close(fd)
        return None

    def children(self) -> list[int]:
        """Pids of its children; empty if the kernel does not say."""
        with contextlib.suppress(OSError):
            listed = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
            return [int(pid) for pid in listed.split()]
        return []


@dataclass(frozen=True)
class Processes:
    """The two processes of a sandbox: its init, and the bwrap outside that waits for it and writes
    its exit code. That bwrap may be gone while the sandbox lives."""

    init: Process
    bwrap: Process | None


class SandboxRecords:
    """The folder of records of one data directory, which other clusters and hosts may share."""

    def __init__(self, data_dir: Path, *, cluster: str, host: str) -> None:
        self._folder = data_dir / "b"
        self._cluster = cluster
        self._host = host

    def folder(self, id: ContainerId) -> Path:
        return self._folder / id

    def make(self, record: SandboxRecord) -> Path:
        """Write a new record."""
        folder = self.folder(record.id)
        folder.mkdir(mode=0o700)
        _write(folder / "record.json", asdict(record))
        return folder

    def all(self) -> list[SandboxRecord]:
        """All sandboxes of our cluster and host. Blocking, but fast."""
        found = []
        with contextlib.suppress(FileNotFoundError):
            for folder in sorted(self._folder.iterdir()):
                record = self.get(ContainerId(folder.name))
                if record and (record.cluster, record.host) == (self._cluster, self._host):
                    found.append(record)
        return found

    def get(self, id: ContainerId) -> SandboxRecord | None:
        """The record, or None; a partly removed folder counts as none."""
        raw = _read(self.folder(id) / "record.json")
        try:
            return None if raw is None else SandboxRecord(**raw)
        except TypeError:
            return None

    def drop_remains(self) -> None:
        """Remove folders without a record: their worker died while it created or removed them.

        There is no process before there is a record. Nobody knows whose such folders are, so only
        old ones are removed: another cluster may be creating one.
        """
        limit_s = time.time() - _REMAINS_S
        with contextlib.suppress(FileNotFoundError):
            for folder in self._folder.iterdir():
                with contextlib.suppress(OSError):
                    is_ours = _ID.fullmatch(folder.name) and folder.stat().st_mtime < limit_s
                    if is_ours and not (folder / "record.json").exists():
                        shutil.rmtree(folder, ignore_errors=True)

    def drop(self, id: ContainerId) -> None:
        shutil.rmtree(self.folder(id), ignore_errors=True)

    def note(self, id: ContainerId, processes: Processes) -> None:
        _write(self.folder(id) / "process.json", asdict(processes))

    def processes(self, record: SandboxRecord) -> Processes | None:
        """The processes recorded during this boot, otherwise None. They may have ended since."""
        raw = _read(self.folder(record.id) / "process.json")
        if raw is None or record.boot != boot_id():
            return None
        bwrap = raw["bwrap"]
        return Processes(Process(**raw["init"]), Process(**bwrap) if bwrap else None)

    def half_started(self, record: SandboxRecord) -> Processes | None:
        """The processes of a sandbox whose worker died after bwrap started and before they were
        recorded.

        Identified by the pid namespace, which bwrap wrote down.
        """
        status = self._status(record.id)
        pid = status.get("child-pid")
        if pid is None or record.boot != boot_id():
            return None
        with contextlib.suppress(OSError):
            if os.stat(f"/proc/{pid}/ns/pid").st_ino == status.get("pid-namespace"):
                init = Process.of(pid)
                return None if init is None else Processes(init, None)
        return None

    def exit_code(self, id: ContainerId) -> int | None:
        """The exit code from bwrap; None if bwrap could not write it."""
        code = self._status(id).get("exit-code")
        return None if code is None else int(code)

    def log_tail(self, id: ContainerId, chars: int = 500) -> str:
        with contextlib.suppress(OSError):
            return (self.folder(id) / "log").read_text(errors="replace")[-chars:].strip()
        return ""

    def trim_log(self, id: ContainerId) -> None:
        """Truncate a long log, so that nobody can fill the disk with it. The writer appends, so
        this is safe."""
        log = self.folder(id) / "log"
        with contextlib.suppress(OSError):
            if log.stat().st_size > LOG_MAX_BYTES:
                os.truncate(log, 0)

    @contextlib.contextmanager
    def lock(self, conversation: ConversationKey, timeout_s: float) -> Iterator[None]:
        """Allow only one start of a conversation at a time, over all workers of the data directory.

        Raises `StartUnderWay` if another one takes too long.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        name = f"{_LOCK}{conversation}"
        try:
            held = lock_file(folder, name, timeout_s=timeout_s)
            try:
                yield
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=folder)
                os.close(held)
        except LockBusy:
            raise StartUnderWay("another start did not end in time") from None
        finally:
            os.close(folder)

    def _status(self, id: ContainerId) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        with contextlib.suppress(OSError):
            for line in (self.folder(id) / "status").read_text().splitlines():
                with contextlib.suppress(ValueError):
                    merged |= json.loads(line)
        return merged


def boot_id() -> str:
    """Names this boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _write(path: Path, content: dict[str, Any]) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content))
    part.replace(path)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
