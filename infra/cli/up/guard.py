"""The last resort of `agcluster up`: ends its programs if it was killed.

A separate process (run as a file, standard library only) that learns over a pipe which programs
run:

    ! <json>                        what to run at the very end: command, environ, timeout_s
    + <rank> <pid> <patience_s>     a program started (it leads its own process group)
    - <pid>                         it has exited
    bye                             everything has ended, nothing to do

If the pipe ends without `bye`, `up` is gone. Then every program is asked to stop, highest rank
first, each within its patience, and the rest of its group is killed. A pipe works on every system,
does not fire when a thread ends (as Linux's parent-death signal does), and leaves time for the
programs to stop their containers.

On an overloaded machine that may not be enough: a program is killed before it has stopped its
agents, or `up` before it has reported a program. So afterwards every process with `up`'s mark in
its environment is killed (Linux), and the last command stops what the engine runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_POLL_S = 0.05
_KILL_WAIT_S = 5.0
_MARKED_WAIT_S = 30.0


def watch(
    lines: Iterable[str], last: dict[str, Any] | None = None
) -> dict[int, tuple[int, float]] | None:
    """The programs that run at the end of the input: pid -> (rank, patience); None after `bye`.

    The command to run last is put into `last`.
    """
    alive: dict[int, tuple[int, float]] = {}
    for line in lines:
        words = line.split()
        if words[:1] == ["bye"]:
            return None
        if words[:1] == ["!"] and last is not None:
            last.update(json.loads(line[1:]))
        if words[:1] == ["+"]:
            alive[int(words[2])] = (int(words[1]), float(words[3]))
        elif words[:1] == ["-"]:
            alive.pop(int(words[1]), None)
    return alive


def end_all(alive: dict[int, tuple[int, float]]) -> None:
    """Stop the programs in the order of their rank, highest first."""
    for pid, (_, patience_s) in sorted(alive.items(), key=lambda item: -item[1][0]):
        ask_to_end(pid)
        _wait_gone(pid, patience_s)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        _wait_gone(pid, _KILL_WAIT_S)


def ask_to_end(pid: int) -> None:
    """SIGTERM to a program, and SIGCONT, because a stopped process would not receive it."""
    for number in (signal.SIGTERM, signal.SIGCONT):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def end_marked(mark: str, *, within_s: float = _MARKED_WAIT_S) -> int:
    """Kill every process with this `NAME=value` in its environment. Returns how many did not die in
    time.

    Finds nothing without /proc. Blocking.
    """
    deadline = time.monotonic() + within_s
    while found := _marked(mark.encode()):
        for pid in found:
            _kill_marked(pid, mark.encode())
        if time.monotonic() > deadline:
            return len(found)
        time.sleep(_POLL_S)
    return 0


def _marked(mark: bytes) -> list[int]:
    pids = (int(folder.name) for folder in Path("/proc").glob("[0-9]*"))
    return [pid for pid in pids if pid != os.getpid() and _has_mark(pid, mark)]


def _has_mark(pid: int, mark: bytes) -> bool:
    try:
        return mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def _kill_marked(pid: int, mark: bytes) -> None:
    # By descriptor, and checked again, because the pid may belong to another process by now.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        fd = os.pidfd_open(pid)
        try:
            if _has_mark(pid, mark):
                signal.pidfd_send_signal(fd, signal.SIGKILL)
        finally:
            os.close(fd)


def run_last(last: dict[str, Any]) -> None:
    """Run the last command, with a time limit; its output is discarded."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        subprocess.run(
            last["command"],
            env=last["environ"],
            timeout=last["timeout_s"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )


def is_alive(pid: int) -> bool:
    """Whether the process still runs. A zombie does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return not Path("/proc/self/stat").exists()
    return stat.rpartition(b")")[2].split()[:1] not in ([b"Z"], [b"X"])


def _wait_gone(pid: int, patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    # They are not our children, so we can only watch the process table.
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(_POLL_S)


def main(mark: str) -> None:
    """Watch, and end what is left if necessary."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    last: dict[str, Any] = {}
    left = watch(sys.stdin, last)
    if left is None:
        return
    end_all(left)
    end_marked(mark)
    if last:
        run_last(last)


if __name__ == "__main__":
    main(sys.argv[1])
