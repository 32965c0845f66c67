"""`agcluster up` as a process, and what it says."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 40.0


@dataclass
class Up:
    """One started command and what it prints."""

    process: subprocess.Popen[str]
    url: str
    folder: Path
    output: Path
    pids: set[int] = field(default_factory=set)

    def said(self) -> str:
        return self.output.read_text(errors="replace")

    def wait_said(self, pattern: str) -> None:
        wait(f"{pattern!r} in:\n{self.said()}", lambda: bool(re.search(pattern, self.said())))

    def wait_ready(self) -> None:
        self.wait_said(r"is ready|stopped:")
        assert "is ready" in self.said(), self.said()
        self.pids = descendants(self.process.pid)

    def commands(self) -> list[bytes]:
        """The command lines of our programs below it."""
        lines = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in self.pids]
        return [line for line in lines if b"launch.py" in line]

    def stop(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(STOP_TIMEOUT_S)


def wait(what: str, done: Callable[[], bool], timeout_s: float = START_TIMEOUT_S) -> None:
    """Wait for something another process decides."""
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.05)


def descendants(pid: int) -> set[int]:
    """Every process below one, the guard too."""
    listed = subprocess.run(
        ["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True, timeout=30
    )
    pairs = (line.split() for line in listed.stdout.splitlines())
    parents = {int(child): int(parent) for child, parent in pairs}
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def ask(up: Up, text: str) -> httpx.Response:
    return httpx.post(
        f"{up.url}/v1/chat/completions",
        headers={"Authorization": "Bearer sk-ant-demo", "X-Conversation-ID": "one"},
        json={"model": "claude-sonnet-4.5", "messages": [{"role": "user", "content": text}]},
        timeout=90,
    )


Start = Callable[..., Up]
