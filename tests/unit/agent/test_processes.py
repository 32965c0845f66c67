"""Marked processes are found and killed, orphans included; others are left alone."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid

from agent.processes import is_crowded, kill_marked, oom_kills

SLEEP = [sys.executable, "-c", "import sys, time; print('up', flush=True); time.sleep(60)"]


def start(**environment: str) -> subprocess.Popen[str]:
    """A process that has surely begun its own life."""
    process = subprocess.Popen(
        SLEEP, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


def test_only_processes_with_the_mark_are_killed() -> None:
    mark = uuid.uuid4().hex
    marked, other, plain = start(AGC_MARK=mark), start(AGC_MARK="another"), start()
    try:
        assert kill_marked("AGC_MARK", mark) == 1
        assert marked.wait(timeout=10) == -9
        assert other.poll() is None
        assert plain.poll() is None
        assert kill_marked("AGC_MARK", mark) == 0
    finally:
        for process in (marked, other, plain):
            process.kill()
            process.communicate(timeout=10)


def test_the_kernels_count_of_kills_is_a_number_everywhere() -> None:
    assert oom_kills() >= 0


def test_a_machine_at_ease_is_not_crowded() -> None:
    assert not is_crowded()
