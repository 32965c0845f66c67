"""The last resort of `agcluster up`: ends its programs when it was killed without a chance to.

A process of its own (run as a file, standard library only), told over a pipe which programs live:

    + <rank> <pid> <patience_s>     a program started (it leads its own process group)
    - <pid>                         it has ended
    bye                             all is over, nothing to do

The end of the pipe without `bye` means that `up` is gone. Then every program is asked to stop,
highest rank first, each within its patience, and what is left of its group is killed. A pipe works
on every system, tells no lie when a thread ends (as Linux's parent-death signal does) and leaves
time for the programs to put away their containers.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path

_POLL_S = 0.05
_KILL_WAIT_S = 5.0


def watch(lines: Iterable[str]) -> dict[int, tuple[int, float]] | None:
    """Programs that live at the end of the lines: pid -> (rank, patience); None after `bye`."""
    alive: dict[int, tuple[int, float]] = {}
    for line in lines:
        words = line.split()
        if words[:1] == ["bye"]:
            return None
        if words[:1] == ["+"]:
            alive[int(words[2])] = (int(words[1]), float(words[3]))
        elif words[:1] == ["-"]:
            alive.pop(int(words[1]), None)
    return alive


def end_all(alive: dict[int, tuple[int, float]]) -> None:
    """Stop the programs in the order of their rank, highest first."""
    for pid, (_, patience_s) in sorted(alive.items(), key=lambda item: -item[1][0]):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        _wait_gone(pid, patience_s)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        _wait_gone(pid, _KILL_WAIT_S)


def is_alive(pid: int) -> bool:
    """Whether the process still runs; one that only waits to be reaped does not."""
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
    # Not our children, so there is nothing to wait on but the process table.
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(_POLL_S)


if __name__ == "__main__":
    for _number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(_number, signal.SIG_IGN)
    if _left := watch(sys.stdin):
        end_all(_left)
