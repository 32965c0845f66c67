"""The guard's bookkeeping, and that it ends what a killed `up` left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.cli.up import guard
from infra.runtime.lifecycle import UP_MARK

OBEDIENT = "import time; print('up', flush=True); time.sleep(300)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {OBEDIENT}"

MARK = f"{UP_MARK}=a-test-of-{os.getpid()}"

Start = Callable[[str], "subprocess.Popen[bytes]"]


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[subprocess.Popen[bytes]] = []

    def begin(code: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-S", "-c", code],
            stdout=subprocess.PIPE,
            start_new_session=True,
            env=dict([MARK.split("=")]),
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


def post(lines: str) -> int:
    """A guard that hears these lines and then nothing any more; its exit code."""
    watching = subprocess.Popen(
        [sys.executable, "-I", "-S", str(Path(guard.__file__)), MARK], stdin=subprocess.PIPE
    )
    watching.communicate(lines.encode(), timeout=50)
    return watching.returncode


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
    assert post(f"+ 0 {program.pid} 10\n") == 0
    assert program.wait(10) == -signal.SIGTERM


def test_a_program_that_stands_still_hears_that_it_is_to_end(start: Start) -> None:
    """A stopped process takes no SIGTERM: it would be killed, and leave what it has to tidy."""
    program = start(OBEDIENT)
    os.kill(program.pid, signal.SIGSTOP)
    assert post(f"+ 0 {program.pid} 30\n") == 0
    assert program.wait(10) == -signal.SIGTERM


def test_what_up_could_not_tell_of_ends_too(start: Start) -> None:
    """`up` was killed between a program's start and its line, or a program between a sandbox and
    its tidying. Neither is in a group that the guard knows, nor asks to end: it is starved.
    """
    unknown, other = start(STUBBORN), subprocess.Popen(["sleep", "300"])
    try:
        assert post("") == 0
        assert unknown.wait(10) == -signal.SIGKILL
        assert other.poll() is None, "it has no mark"
    finally:
        other.kill()
        other.wait(10)


def test_the_last_command_is_run_when_all_else_is_over(start: Start, tmp_path: Path) -> None:
    program = start(OBEDIENT)
    command = [
        "sh",
        "-c",
        f"grep -q '^State:.Z' /proc/{program.pid}/status && touch '{tmp_path}/ran'",
    ]
    last = {"command": command, "environ": {}, "timeout_s": 20}
    assert post(f"! {json.dumps(last)}\n+ 0 {program.pid} 10\n") == 0
    assert (tmp_path / "ran").exists()


def test_after_bye_nothing_is_run(tmp_path: Path) -> None:
    last = {"command": ["touch", str(tmp_path / "ran")], "environ": {}, "timeout_s": 20}
    assert post(f"! {json.dumps(last)}\nbye\n") == 0
    assert not (tmp_path / "ran").exists()


def test_a_process_that_only_waits_to_be_reaped_is_not_alive(start: Start) -> None:
    program = start(OBEDIENT)
    assert guard.is_alive(program.pid)
    program.terminate()
    os.waitid(os.P_PID, program.pid, os.WEXITED | os.WNOWAIT)
    assert not guard.is_alive(program.pid)
