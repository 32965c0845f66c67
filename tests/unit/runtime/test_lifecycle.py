"""A program ends as it was told to, however often it is told."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, os, signal, sys
from infra.runtime.lifecycle import stop_signals

async def work():
    with stop_signals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        await stop.wait()
        os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)

if sys.argv[1] == "uvloop":
    import uvloop
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work())
else:
    asyncio.run(work())
os.kill(os.getpid(), signal.SIGTERM)
print("in order")
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_signal_that_comes_while_a_program_ends_does_not_kill_it(loop: str) -> None:
    """A worker that was told to leave was reported as killed (143) if SIGTERM came too."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, loop],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "in order\n"), done.stderr
