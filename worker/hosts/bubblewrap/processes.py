"""What `worker.hosts.bubblewrap.host` does with processes and descriptors: kill, wait, pass on.
Blocking."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from typing import IO

from infra.wire.errors import ContainerFailed
from worker.hosts.bubblewrap.records import Process

KILL_S = 5.0


def kill(process: Process) -> None:
    fd = process.open()
    if fd is None:
        return
    try:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(fd, signal.SIGKILL)
        if not is_readable(fd, KILL_S):
            raise ContainerFailed(f"process {process.pid} does not die")
    finally:
        os.close(fd)


def wait_for_end(process: Process, timeout_s: float) -> None:
    if (fd := process.open()) is not None:
        is_readable(fd, timeout_s)
        os.close(fd)


def is_readable(fd: int, timeout_s: float) -> bool:
    """Whether the descriptor became readable in time. Unlike select, it works beyond 1024 files."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


def pipe(opened: contextlib.ExitStack) -> tuple[IO[bytes], IO[bytes]]:
    reading, writing = os.pipe()
    return (
        opened.enter_context(os.fdopen(reading, "rb", buffering=0)),
        opened.enter_context(os.fdopen(writing, "wb", buffering=0)),
    )


def memory_file(opened: contextlib.ExitStack, content: bytes) -> int:
    """A descriptor from which a child can read these bytes."""
    file = opened.enter_context(os.fdopen(os.memfd_create("agcluster"), "w+b", buffering=0))
    file.write(content)
    file.seek(0)
    return file.fileno()
