"""The guard's bookkeeping, and that it ends what a killed `up` left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.cli import guard

OBEDIENT = "import time; print('up', flush=True); time.sleep(300)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {OBEDIENT}"

Start = Callable[[str], "subprocess.Popen[bytes]"]


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[subprocess.Popen[bytes]] = []

    def begin(code: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-S", "-c", code], stdout=subprocess.PIPE, start_new_session=True
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()


def test_the_living_are_those_that_started_and_did_not_end() -> None:
    lines = ["+ 0 10 5", "+ 3 11 2.5", "- 10", "+ 0 12 5", "- 99"]
    assert guard.watch(lines) == {11: (3, 2.5), 12: (0, 5.0)}


def test_after_bye_there_is_nothing_to_do() -> None:
    assert guard.watch(["+ 0 10 5", "bye"]) is None


def test_programs_are_ended_highest_rank_first_and_by_force_if_need_be(start: Start) -> None:
    low, high = start(OBEDIENT), start(STUBBORN)
    guard.end_all({low.pid: (0, 10.0), high.pid: (4, 0.2)})
    assert high.wait(10) == -signal.SIGKILL
    assert low.wait(10) == -signal.SIGTERM


def test_the_end_of_the_pipe_ends_the_programs(start: Start) -> None:
    program = start(OBEDIENT)
    watching = subprocess.Popen(
        [sys.executable, "-I", "-S", str(Path(guard.__file__))], stdin=subprocess.PIPE
    )
    watching.communicate(f"+ 0 {program.pid} 10\n".encode(), timeout=30)
    assert watching.returncode == 0
    assert program.wait(10) == -signal.SIGTERM


def test_a_process_that_only_waits_to_be_reaped_is_not_alive(start: Start) -> None:
    program = start(OBEDIENT)
    assert guard.is_alive(program.pid)
    program.terminate()
    os.waitid(os.P_PID, program.pid, os.WEXITED | os.WNOWAIT)
    assert not guard.is_alive(program.pid)
