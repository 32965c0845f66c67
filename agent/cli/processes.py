"""The processes of a CLI, found by the mark in their environment, and what the kernel did to them.

A killed CLI leaves its tools behind as orphans, and a tool may have moved to a session of its own:
the inherited environment is what still tells whose they are. A tool can also start something with
an environment of its own. So in an agent's isolation, where nobody lives but its init, this server
and what the CLI has started, everything else counts as the CLI's.

When a turn has ended the CLI lives on, and it alone: nothing that a tool has started may work
between turns (docs/adr/0038).
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Set
from pathlib import Path

_OOM_COUNTERS = (
    Path("/sys/fs/cgroup/memory.events"),
    Path("/sys/fs/cgroup/memory/memory.oom_control"),
)

_PIDS_FOLDERS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/pids"))
_INITS = ("docker-init", "bwrap")
_CROWDED = 0.9
_PASSES_MAX = 20


def kill_marked(
    name: str, value: str, *, spared: Set[int] = frozenset(), proc: Path = Path("/proc")
) -> int:
    """Kill every process whose environment has that variable, or where we are alone every other
    one, but for those of the ids in `spared`; how many there were.

    All are stopped before one is killed: of a fork bomb, each death would make room for a birth.
    Repeats until none is found, so that a process that is just forking does not slip through.
    """
    stopped: set[int] = set()
    alone = is_alone(proc)
    for _ in range(_PASSES_MAX):
        found = _others(proc) if alone else _marked(f"{name}={value}".encode(), proc)
        if not (found := found - stopped - spared):
            break
        _signal(found, signal.SIGSTOP)
        stopped |= found
    _signal(stopped, signal.SIGKILL)
    return len(stopped)


def children(proc: Path = Path("/proc")) -> frozenset[int]:
    """The ids of the processes that this one has started and that live.

    A process whose parent dies becomes a child of the init, not of ours.
    """
    ours = str(os.getpid())
    return frozenset(pid for pid in _others(proc) if _stat(proc / str(pid))[1:2] == [ours])


def is_alone(proc: Path = Path("/proc")) -> bool:
    """Whether we are the only child of an isolation's init: of Docker's, or of bwrap."""
    with contextlib.suppress(OSError):
        return os.getppid() == 1 and (proc / "1" / "comm").read_text().strip() in _INITS
    return False


def is_crowded() -> bool:
    """Whether so many processes live here that hardly another one can be started."""
    for folder in _PIDS_FOLDERS:
        with contextlib.suppress(OSError, ValueError):
            most = int((folder / "pids.max").read_text())
            return int((folder / "pids.current").read_text()) > _CROWDED * most
    return False


def oom_kills() -> int:
    """How many processes the kernel has killed here for want of memory; 0 where it does not say."""
    for path in _OOM_COUNTERS:
        with contextlib.suppress(OSError):
            if found := re.search(r"^oom_kill (\d+)$", path.read_text(), re.MULTILINE):
                return int(found[1])
    return 0


def _signal(processes: set[int], number: signal.Signals) -> None:
    for pid in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _others(proc: Path) -> set[int]:
    pids = {int(folder.name) for folder in proc.iterdir() if folder.name.isdigit()}
    return {pid for pid in pids - {1, os.getpid()} if not _is_dead(proc / str(pid))}


def _is_dead(process: Path) -> bool:
    return _stat(process)[:1] in ([], ["Z"], ["X"])


def _stat(process: Path) -> list[str]:
    """Its state, its parent and so on; nothing when it is gone."""
    with contextlib.suppress(OSError):
        return (process / "stat").read_text(errors="replace").rpartition(")")[2].split()
    return []


def _marked(needle: bytes, proc: Path) -> set[int]:
    found = set()
    for folder in proc.iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            # A process of another user, or one that has just ended, has no environment to read.
            with contextlib.suppress(OSError):
                if needle in (folder / "environ").read_bytes().split(b"\0"):
                    found.add(int(folder.name))
    return found
