"""The programs a run needs, started and stopped, and what they spent and hold (Linux only)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.deployments import ROOT, answers, wait_until

_TICKS = os.sysconf("SC_CLK_TCK")


@contextmanager
def started(
    command: Sequence[str],
    *,
    log: Path,
    environ: Mapping[str, str] | None = None,
    ready_url: str | None = None,
    ready_within_s: float = 60.0,
) -> Iterator[subprocess.Popen[bytes]]:
    """A child process for the length of the block, ready when `ready_url` answers 200.

    Raises `RuntimeError` with the end of its output when it dies before, `TimeoutError` when it
    stays silent.
    """
    env = {**os.environ, **(environ or {})}
    with log.open("wb") as output:
        process = subprocess.Popen(
            list(command), cwd=ROOT, env=env, stdout=output, stderr=subprocess.STDOUT
        )

    def is_ready() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"{command[0]} ended: {log.read_text(errors='replace')[-1500:]}")
        return ready_url is None or answers(ready_url)

    try:
        wait_until(" ".join(command[:4]), is_ready, ready_within_s)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def cpu_s(pids: Sequence[int]) -> float | None:
    """CPU seconds that these processes and their descendants have used so far; None off Linux."""
    if sys.platform != "linux":
        return None
    parents, spent = _process_table()
    return sum(_tree_s(pid, parents, spent) for pid in pids)


def memory_mb(pid: int) -> dict[str, float]:
    """What each program of a tree holds, by its module's or file's name: its share of the pages it
    has in memory (Linux only). Programs of the same name are added up.
    """
    children, _ = _process_table()
    held: dict[str, float] = {}
    waiting = [pid]
    while waiting:
        one = waiting.pop()
        waiting += children.get(one, [])
        try:
            name = _name(Path(f"/proc/{one}/cmdline").read_text().split("\0"))
            rollup = Path(f"/proc/{one}/smaps_rollup").read_text()
        except OSError:  # It ended while we looked.
            continue
        pss_kb = sum(int(line.split()[1]) for line in rollup.splitlines() if line[:4] == "Pss:")
        held[name] = held.get(name, 0.0) + pss_kb / 1024
    return held


def _name(command: Sequence[str]) -> str:
    if "-m" in command:
        return command[command.index("-m") + 1]
    return Path(command[0].split()[0] if command[0] else "?").name


def _tree_s(pid: int, children: Mapping[int, list[int]], spent: Mapping[int, float]) -> float:
    below = sum(_tree_s(child, children, spent) for child in children.get(pid, []))
    return spent.get(pid, 0.0) + below


def _process_table() -> tuple[dict[int, list[int]], dict[int, float]]:
    children: dict[int, list[int]] = {}
    spent: dict[int, float] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text().rpartition(") ")[2].split()
        except OSError:  # It ended while we looked.
            continue
        children.setdefault(int(stat[1]), []).append(int(entry.name))
        spent[int(entry.name)] = (int(stat[11]) + int(stat[12])) / _TICKS
    return children, spent
