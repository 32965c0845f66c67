"""Marked processes are found and killed, orphans included; others are left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from agent.cli.processes import is_alone, is_crowded, kill_marked, oom_kills, signal_all
from tests.parts import need
from worker.hosts.bubblewrap.program import find_bwrap

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


@pytest.mark.bwrap
def test_in_an_isolation_of_its_own_a_tool_with_an_empty_environment_is_killed_too() -> None:
    code = """
import os, sys
sys.path.insert(0, sys.argv[1])
from agent.cli.processes import is_alone, kill_marked
assert is_alone()
reading, writing = os.pipe()
os.set_inheritable(writing, True)
if os.fork() == 0:
    os.setsid()
    up = f"import os, time; os.write({writing}, b'!'); time.sleep(60)"
    os.execve(sys.executable, [sys.executable, "-Sc", up], {})
os.close(writing)
assert os.read(reading, 1) == b"!"
print(kill_marked("AGC_MARK", "none"), os.read(reading, 1))
"""
    need("bwrap")
    bwrap = find_bwrap()
    assert bwrap is not None
    own = ("--unshare-pid", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--")
    done = subprocess.run(
        [bwrap, *own, sys.executable, "-Ic", code, str(Path(__file__).parents[4])],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stdout == "1 b''\n", done.stderr


def test_nobody_is_alone_on_a_machine() -> None:
    assert not is_alone()


def test_the_kernels_count_of_kills_is_a_number_everywhere() -> None:
    assert oom_kills() >= 0


def test_a_machine_at_ease_is_not_crowded() -> None:
    assert not is_crowded()


def test_another_users_process_costs_the_turn_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator's shell in the container: the kernel refuses us, and the others are killed."""
    refused = {1}

    def kill(pid: int, number: int) -> None:
        if pid in refused:
            raise PermissionError
        killed.append((pid, number))

    killed: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", kill)
    signal_all({1, 2}, signal.SIGKILL)
    assert killed == [(2, signal.SIGKILL)]
