"""A fleet on real processes with what it said, and `agcluster up` as its user starts it."""

from __future__ import annotations

import asyncio
import io
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra.cli.terminal import Terminal
from infra.cli.up.fleet import Fleet
from infra.cli.up.programs import Program, python_command
from infra.cli.up.state_dir import InstanceLock, StateDir
from tests.integration.cli.up_process import Start, Up
from tests.parts import need

UP = python_command("infra.cli.main")


class Heard(io.StringIO):
    """What was said, for somebody who waits for a word."""

    def __init__(self) -> None:
        super().__init__()
        self._more = asyncio.Event()

    def write(self, text: str, /) -> int:
        self._more.set()
        return super().write(text)

    async def has(self, text: str) -> None:
        """Wait until it was said."""
        while text not in self.getvalue():
            self._more.clear()
            await self._more.wait()


@dataclass
class Stage:
    """Where programs play: a fleet, its output, and the folder the programs leave marks in."""

    fleet: Fleet
    output: Heard
    folder: Path

    def program(self, name: str, code: str, *, rank: int = 0, quiet: bool = False) -> Program:
        """A small Python program; `sys.argv[1]` is the folder."""
        return Program(
            name=name,
            command=(sys.executable, "-S", "-u", "-c", code, str(self.folder)),
            rank=rank,
            environ={},
            stop_timeout_s=5.0,
            is_quiet=quiet,
        )

    async def has(self, mark: str, _: int = 0) -> bool:
        """Whether a program has left this mark."""
        return (self.folder / mark).exists()


@asynccontextmanager
async def staged(folder: Path, *, last: str | None = None) -> AsyncIterator[Stage]:
    """A fleet that is stopped at the end. `last`: code that tidies after a program was killed."""
    state = StateDir(folder / "state")
    state.make()
    lock = InstanceLock(state)
    output = Heard()
    try:
        async with asyncio.TaskGroup() as group:
            fleet = Fleet(group, Terminal(output), lock_fd=lock.fd)
            stage = Stage(fleet, output, folder)
            here = "import pathlib, sys; here = pathlib.Path(sys.argv[1]); "
            await fleet.open(stage.program("last", here + last) if last else None)
            try:
                yield stage
            finally:
                await fleet.stop()
    finally:
        lock.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short one: names of sockets must fit, and not where Python or the tests live."""
    with tempfile.TemporaryDirectory(prefix="agc-up-") as made:
        yield Path(made)


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    need("bwrap")
    need("redis")
    started: list[Up] = []

    def begin(*arguments: str, command: Sequence[str] = UP, **settings: str) -> Up:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        environ = {k: v for k, v in os.environ.items() if not k.startswith("AGCLUSTER_")}
        environ |= {
            "AGCLUSTER_DATA_DIR": str(folder / "d"),
            "AGCLUSTER_PORT": str(port),
            "AGCLUSTER_ISOLATION": "bubblewrap",
            **settings,
        }
        output = folder / f"out-{len(started)}"
        with output.open("w") as file:
            process = subprocess.Popen(
                [*command, "up", *arguments],
                cwd=folder,
                env=environ,
                stdout=file,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        up = Up(process, f"http://127.0.0.1:{environ['AGCLUSTER_PORT']}", folder / "d", output)
        started.append(up)
        return up

    yield begin
    for up in started:
        if up.process.poll() is None:
            up.process.kill()
            up.process.wait(10)
