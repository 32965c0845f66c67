"""A fleet on real processes, with what it said."""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra.cli.terminal import Terminal
from infra.cli.up.fleet import Fleet
from infra.cli.up.programs import Program
from infra.cli.up.state_dir import InstanceLock, StateDir


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
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("f")
