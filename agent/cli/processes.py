"""The processes of a CLI, identified by a variable in their environment, and what the kernel
killed.

A killed CLI leaves its tools behind as orphans, and a tool may have created its own session, but
the inherited environment still shows where they belong. A tool can also start something with
another environment. An agent's container holds only its init, this server and what the CLI started,
so there every other process counts as the CLI's.

When a turn has ended, only the CLI stays alive, and the MCP servers that it started: nothing that a
tool started may run between turns (docs/adr/0038).
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Iterable, Set
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
    """Kill every process with this variable in its environment or, if we are alone in the
    container, every other process, except for the ids in `spared`. Returns how many were killed.

    All are stopped before one is killed, because each death in a fork bomb would make room for a
    new process. Repeats until none is found, so that a process that is just forking does not
    escape.
    """
    stopped: set[int] = set()
    alone = is_alone(proc)
    for _ in range(_PASSES_MAX):
        found = _others(proc) if alone else _marked(f"{name}={value}".encode(), proc)
        if not (found := found - stopped - spared):
            break
        signal_all(found, signal.SIGSTOP)
        stopped |= found
    signal_all(stopped, signal.SIGKILL)
    return len(stopped)


def children(proc: Path = Path("/proc")) -> frozenset[int]:
    """The ids of the live processes that this process started.

    A process whose parent dies becomes a child of the init, not of ours.
    """
    ours = str(os.getpid())
    return frozenset(pid for pid in _others(proc) if _stat(proc / str(pid))[1:2] == [ours])


def families(heads: Iterable[int], proc: Path = Path("/proc")) -> frozenset[int]:
    """The ids of these processes and of all that they started, which still live."""
    found: set[int] = set()
    parents = {pid: _stat(proc / str(pid))[1:2] for pid in _others(proc)}
    new = {pid for pid in heads if pid in parents}
    while new:
        found |= new
        ids = {str(pid) for pid in new}
        new = {pid for pid, parent in parents.items() if ids.issuperset(parent) and parent} - found
    return frozenset(found)


def is_alone(proc: Path = Path("/proc")) -> bool:
    """Whether we are the only child of a container's init (Docker's or bwrap's)."""
    with contextlib.suppress(OSError):
        return os.getppid() == 1 and (proc / "1" / "comm").read_text().strip() in _INITS
    return False


def is_crowded() -> bool:
    """Whether there are so many processes that hardly another one can be started."""
    for folder in _PIDS_FOLDERS:
        with contextlib.suppress(OSError, ValueError):
            most = int((folder / "pids.max").read_text())
            return int((folder / "pids.current").read_text()) > _CROWDED * most
    return False


def oom_kills() -> int:
    """How many processes the kernel has killed here because memory ran out; 0 if it does not
    say."""
    for path in _OOM_COUNTERS:
        with contextlib.suppress(OSError):
            if found := re.search(r"^oom_kill (\d+)$", path.read_text(), re.MULTILINE):
                return int(found[1])
    return 0


def signal_all(processes: set[int], number: signal.Signals) -> None:
    """Send a signal to each process that is still there and that we may signal."""
    for pid in processes:
        # A process of another user is an operator's: an agent cannot start one.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _others(proc: Path) -> set[int]:
    pids = {int(folder.name) for folder in proc.iterdir() if folder.name.isdigit()}
    return {pid for pid in pids - {1, os.getpid()} if not _is_dead(proc / str(pid))}


def _is_dead(process: Path) -> bool:
    return _stat(process)[:1] in ([], ["Z"], ["X"])


def _stat(process: Path) -> list[str]:
    """A process's state, its parent and so on; empty if the process is gone."""
    with contextlib.suppress(OSError):
        return (process / "stat").read_text(errors="replace").rpartition(")")[2].split()
    return []


def _marked(needle: bytes, proc: Path) -> set[int]:
    found = set()
    for folder in proc.iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            # The environment of another user's process, or of one that just ended, cannot be read.
            with contextlib.suppress(OSError):
                if needle in (folder / "environ").read_bytes().split(b"\0"):
                    found.add(int(folder.name))
    return found
