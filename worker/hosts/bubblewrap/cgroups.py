"""Control groups for agents in bubblewrap, if this machine lets us create them.

A worker can create them if it runs as root and sees the real hierarchy, of version 1 or 2.
Otherwise `CgroupRoot.find` returns None, and `worker.hosts.bubblewrap.host` uses what an ordinary
user has.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from worker.hosts.host import Limits

MOUNT = Path("/sys/fs/cgroup")
_FOLDER = "agcluster"
_PERIOD_US = 100_000
_EMPTY_S = 1.0
_EMPTY_POLL_S = 0.01


@dataclass(frozen=True)
class CgroupRoot:
    """Where groups are created: one folder (version 2) or one per controller (version 1)."""

    folders: tuple[Path, ...]
    version: int

    @classmethod
    def find(cls, mount: Path = MOUNT) -> CgroupRoot | None:
        """The place for our groups, created if necessary; None if we may not or cannot."""
        try:
            if (mount / "cgroup.controllers").is_file():
                return cls._unified(mount)
            return cls._by_controller(mount)
        except OSError:
            return None

    @classmethod
    def _unified(cls, mount: Path) -> CgroupRoot | None:
        wanted = {"memory", "pids", "cpu"}
        folder = mount / _FOLDER
        folder.mkdir(exist_ok=True)
        for level in (mount, folder):
            if wanted - set((level / "cgroup.subtree_control").read_text().split()):
                (level / "cgroup.subtree_control").write_text("+memory +pids +cpu")
        return cls((folder,), 2)

    @classmethod
    def _by_controller(cls, mount: Path) -> CgroupRoot | None:
        folders = tuple(mount / name / _FOLDER for name in ("memory", "pids", "cpu"))
        if not all((f.parent / "cgroup.procs").is_file() for f in folders):
            return None
        for folder in folders:
            folder.mkdir(exist_ok=True)
        return cls(folders, 1)

    def make(self, name: str, limits: Limits) -> Cgroup:
        """A new group with these limits. Raises `OSError`; then nothing of the group is left."""
        group = Cgroup(tuple(folder / name for folder in self.folders))
        try:
            for folder in group.folders:
                folder.mkdir(exist_ok=True)
            for file, value in self._values(limits).items():
                _write_where_known(group.folders, file, value)
        except OSError:
            group.remove()
            raise
        return group

    def limit_cpus(self, name: str, cpus: float) -> None:
        """Change the CPUs of a group. A group that is gone needs no limit."""
        with contextlib.suppress(OSError):
            for file, value in self._cpu_values(cpus).items():
                _write_where_known(self.get(name).folders, file, value)

    def get(self, name: str) -> Cgroup:
        """The group with that name, whether it exists or not."""
        return Cgroup(tuple(folder / name for folder in self.folders))

    def _values(self, limits: Limits) -> Mapping[str, str]:
        memory = str(limits.memory_mb * 1024 * 1024)
        cpus = self._cpu_values(limits.first_cpus)
        if self.version == 2:
            return {
                "memory.max": memory,
                "memory.swap.max": "0",
                "pids.max": str(limits.pids),
                **cpus,
            }
        return {
            # In this order: memory and swap together may not be less than memory.
            "memory.limit_in_bytes": memory,
            "memory.memsw.limit_in_bytes": memory,
            "pids.max": str(limits.pids),
            **cpus,
        }

    def _cpu_values(self, cpus: float) -> Mapping[str, str]:
        quota = str(int(cpus * _PERIOD_US))
        if self.version == 2:
            return {"cpu.max": f"{quota} {_PERIOD_US}"}
        return {"cpu.cfs_period_us": str(_PERIOD_US), "cpu.cfs_quota_us": quota}


@dataclass(frozen=True)
class Cgroup:
    """One agent's group."""

    folders: tuple[Path, ...]

    def add(self, pid: int) -> None:
        """Put a process, and whatever it starts from now on, into the group."""
        for folder in self.folders:
            (folder / "cgroup.procs").write_text(str(pid))

    def was_out_of_memory(self) -> bool:
        """Whether the kernel killed something in the group because of its memory limit."""
        for folder in self.folders:
            for name in ("memory.events", "memory.oom_control"):
                with contextlib.suppress(OSError):
                    counts = dict(line.split() for line in (folder / name).read_text().splitlines())
                    if int(counts.get("oom_kill", "0")) > 0:
                        return True
        return False

    def remove(self) -> None:
        """Remove the group if it exists. A group that cannot be emptied stays; it costs nothing."""
        give_up = time.monotonic() + _EMPTY_S
        for folder in self.folders:
            # The kernel releases dead processes a moment after they end, without a notification.
            while not _removed(folder) and time.monotonic() < give_up:
                time.sleep(_EMPTY_POLL_S)


def _removed(folder: Path) -> bool:
    try:
        os.rmdir(folder)
    except OSError as error:
        return error.errno != errno.EBUSY
    return True


def _write_where_known(folders: tuple[Path, ...], file: str, value: str) -> None:
    """Write a limit; a kernel without swap accounting has no file for it."""
    for folder in folders:
        if (folder / file).exists():
            (folder / file).write_text(value)
            return
    if "sw" not in file:
        raise FileNotFoundError(file)
