"""The group of programs: real child processes that start, speak, fail and are stopped."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from infra.cli.up import guard
from infra.cli.up.fleet import RESTARTS_MAX, ProgramEnded
from tests.integration.cli.conftest import Stage, staged

WAIT = "import pathlib, sys, time; here = pathlib.Path(sys.argv[1]); "
SERVE = WAIT + "(here / 'ready').touch(); print('serving'); time.sleep(300)"
ONCE_THEN_SERVE = (
    WAIT
    + "first = not (here / 'ready').exists(); (here / 'ready').touch(); print('first', first); "
    + "time.sleep(0.2 if first else 300); (first and sys.exit(3))"
)
NOTES_ITS_STOP = (
    WAIT
    + "import signal; name = sys.argv[0] if False else {name!r}\n"
    + "def stop(*_):\n open(here / 'order', 'a').write(name + '\\n'); sys.exit(0)\n"
    + "signal.signal(signal.SIGTERM, stop)\n"
    + "(here / name).touch(); time.sleep(300)"
)
FAIL = "print('no such thing'); raise SystemExit(7)"


async def until(stage: Stage, text: str) -> None:
    """Wait until the fleet has said this."""
    async with asyncio.timeout(30):
        await stage.output.has(text)


async def test_lines_carry_their_programs_name(folder: Path) -> None:
    async with staged(folder) as stage:
        launched = stage.fleet.launch(stage.program("server", SERVE))
        await stage.fleet.wait_ready(launched, lambda _: stage.has("ready"), timeout_s=30)
        await until(stage, "server  | serving")


async def test_programs_stop_in_reverse_order_and_nothing_is_left(folder: Path) -> None:
    async with staged(folder) as stage:
        pids = []
        for rank, name in enumerate(("first", "second", "third")):
            code = NOTES_ITS_STOP.format(name=name)
            launched = stage.fleet.launch(stage.program(name, code, rank=rank))
            await stage.fleet.wait_ready(launched, partial(stage.has, name), timeout_s=30)
            assert launched.pid is not None
            pids.append(launched.pid)
    assert (folder / "order").read_text().split() == ["third", "second", "first"]
    assert not any(guard.is_alive(pid) for pid in pids)


async def test_a_program_that_fails_at_its_start_is_told_with_its_last_words(folder: Path) -> None:
    async with staged(folder) as stage:
        launched = stage.fleet.launch(stage.program("broken", FAIL, quiet=True))
        with pytest.raises(ProgramEnded, match="exit code 7") as ended:
            await stage.fleet.wait_ready(launched, lambda _: stage.has("ready"), timeout_s=30)
    assert ended.value.last_lines == ("no such thing",)


async def test_a_program_that_is_not_there_is_told(folder: Path) -> None:
    async with staged(folder) as stage:
        absent = replace(stage.program("absent", ""), command=("/nonexistent/program",))
        launched = stage.fleet.launch(absent)
        with pytest.raises(ProgramEnded):
            await stage.fleet.wait_ready(launched, lambda _: stage.has("ready"), timeout_s=30)


async def test_a_program_that_is_never_ready_is_given_up(folder: Path) -> None:
    async with staged(folder) as stage:
        launched = stage.fleet.launch(stage.program("slow", SERVE))
        with pytest.raises(ProgramEnded, match="not ready after"):
            await stage.fleet.wait_ready(launched, lambda _: stage.has("never"), timeout_s=0.5)


async def test_a_program_that_ends_later_is_started_again(folder: Path) -> None:
    async with staged(folder) as stage:
        launched = stage.fleet.launch(stage.program("worker", ONCE_THEN_SERVE))
        await stage.fleet.wait_ready(launched, lambda _: stage.has("ready"), timeout_s=30)
        await until(stage, f"starting it again in 0.5 s (1/{RESTARTS_MAX})")
        await until(stage, "worker  | first False")


async def test_a_killed_program_is_told_by_the_signals_name(folder: Path) -> None:
    async with staged(folder) as stage:
        launched = stage.fleet.launch(stage.program("worker", SERVE))
        await stage.fleet.wait_ready(launched, lambda _: stage.has("ready"), timeout_s=30)
        assert launched.pid is not None
        os.kill(launched.pid, signal.SIGKILL)
        await until(stage, "worker was ended by SIGKILL")


async def test_stop_does_not_wait_for_a_restart(folder: Path) -> None:
    async with staged(folder) as stage:
        launched = stage.fleet.launch(stage.program("worker", ONCE_THEN_SERVE))
        await stage.fleet.wait_ready(launched, lambda _: stage.has("ready"), timeout_s=30)
        await until(stage, "starting it again")
    assert launched.task is not None
    assert launched.task.done()


async def test_grandchildren_of_a_stopped_program_end_with_it(folder: Path) -> None:
    code = (
        "import os, pathlib, sys, time; pid = os.fork() or time.sleep(300)\n"
        "(pathlib.Path(sys.argv[1]) / 'child').write_text(str(pid)); time.sleep(300)"
    )
    async with staged(folder) as stage:
        launched = stage.fleet.launch(stage.program("parent", code))
        await stage.fleet.wait_ready(launched, lambda _: stage.has("child"), timeout_s=30)
        child = int((folder / "child").read_text() or 0)
    assert child
    assert not guard.is_alive(child)


async def test_a_program_that_will_not_stop_is_killed_and_named(folder: Path) -> None:
    code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SERVE
    async with staged(folder) as stage:
        stubborn = replace(stage.program("worker", code), stop_timeout_s=0.2)
        launched = stage.fleet.launch(stubborn)
        await stage.fleet.wait_ready(launched, lambda _: stage.has("ready"), timeout_s=30)
        assert await stage.fleet.stop() == ("worker",)
        assert launched.pid is not None
        assert not guard.is_alive(launched.pid)
    assert "worker did not stop within 0.2 s" in stage.output.getvalue()


async def test_what_a_killed_program_left_behind_ends_with_it(folder: Path) -> None:
    """A worker without time to spare: killed when its patience was over, before it had stopped its
    agents, which lead sessions of their own because they may outlive it.
    """
    code = (
        "import os, pathlib, signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "pid = os.fork()\n"
        "if not pid: os.setsid(); time.sleep(300)\n"
        "(pathlib.Path(sys.argv[1]) / 'agent').write_text(str(pid)); time.sleep(300)"
    )
    async with staged(folder, last="(here / 'tidied').touch()") as stage:
        starved = replace(stage.program("worker", code), stop_timeout_s=0.2)
        launched = stage.fleet.launch(starved)
        await stage.fleet.wait_ready(launched, lambda _: stage.has("agent"), timeout_s=30)
        agent = int((folder / "agent").read_text() or 0)
        assert guard.is_alive(agent)
        assert await stage.fleet.stop() == ("worker",)
        assert not guard.is_alive(agent)
        assert not stage.fleet.has_left
    assert (folder / "tidied").exists()


async def test_that_something_is_left_is_said(folder: Path) -> None:
    code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SERVE
    async with staged(folder, last="sys.exit(1)") as stage:
        stubborn = replace(stage.program("worker", code), stop_timeout_s=0.2)
        launched = stage.fleet.launch(stubborn)
        await stage.fleet.wait_ready(launched, lambda _: stage.has("ready"), timeout_s=30)
        await stage.fleet.stop()
        assert stage.fleet.has_left


async def test_a_stopped_program_is_continued_to_end_in_order(folder: Path) -> None:
    async with staged(folder) as stage:
        launched = stage.fleet.launch(stage.program("first", NOTES_ITS_STOP.format(name="first")))
        await stage.fleet.wait_ready(launched, partial(stage.has, "first"), timeout_s=30)
        assert launched.pid is not None
        os.kill(launched.pid, signal.SIGSTOP)
        assert await stage.fleet.stop() == ()
    assert (folder / "order").read_text().split() == ["first"]


async def test_very_long_lines_and_broken_text_do_no_harm(folder: Path) -> None:
    code = WAIT + "sys.stdout.buffer.write(b'x' * 300000 + b'\\xff\\n'); (here / 'ready').touch()"
    async with staged(folder) as stage:
        launched = stage.fleet.launch(stage.program("loud", code + "; time.sleep(300)"))
        await stage.fleet.wait_ready(launched, lambda _: stage.has("ready"), timeout_s=30)
        await until(stage, "\ufffd")
    assert stage.output.getvalue().count("x") >= 300_000
