"""What is in no folder any more, as the kernel tells it."""

from __future__ import annotations

import os
from pathlib import Path

from worker.hosts.unlinked import TOO_LONG_BYTES, unlinked_bytes

MB = 1024 * 1024


def test_only_what_is_unlinked_and_on_that_disk_counts(tmp_path: Path) -> None:
    with (tmp_path / "kept").open("wb") as kept, (tmp_path / "gone").open("wb") as gone:
        for file in (kept, gone):
            os.posix_fallocate(file.fileno(), 0, 3 * MB)
        before = unlinked_bytes(os.getpid(), tmp_path)
        (tmp_path / "gone").unlink()

        assert unlinked_bytes(os.getpid(), tmp_path) - before == 3 * MB
        assert unlinked_bytes(os.getpid(), Path("/proc")) == 0


def test_a_look_that_takes_too_long_counts_as_too_much(tmp_path: Path) -> None:
    assert unlinked_bytes(os.getpid(), tmp_path, timeout_s=-1) >= TOO_LONG_BYTES


def test_a_process_that_is_gone_holds_nothing(tmp_path: Path) -> None:
    if (pid := os.fork()) == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    assert unlinked_bytes(pid, tmp_path) == 0
