"""A group of programs as child processes: started in order, watched, restarted, stopped in order.

Every child leads its own process group and session, so Ctrl-C reaches only `up`, which then stops
them one after another. A guard (`infra.cli.up.guard`) does the same if `up` is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

from infra.cli.terminal import Terminal
from infra.cli.up import guard
from infra.cli.up.programs import Program, bare_environment
from infra.runtime.lifecycle import UP_MARK
from infra.wire.errors import AgClusterError

RESTARTS_MAX = 5
"""Consecutive exits after which a program is started again. The count restarts after `CALM_S`
seconds."""
CALM_S = 60.0
_FIRST_DELAY_S = 0.5
_READY_POLL_S = 0.05
_LINE_MAX_BYTES = 64 * 1024
_OUTPUT_END_TIMEOUT_S = 1.0
_KILL_TIMEOUT_S = 5.0

Ready = Callable[[int], Awaitable[bool]]
"""Returns whether the program with this pid is ready."""


class ProgramEnded(AgClusterError):
    """A program exited, or did not become ready in time."""

    def __init__(self, name: str, what: str, last_lines: tuple[str, ...] = ()) -> None:
        super().__init__(f"{name} {what}")
        self.name = name
        self.last_lines = last_lines


class Fleet:
    """The programs of one `agcluster up`, and their guard."""

    def __init__(self, group: asyncio.TaskGroup, terminal: Terminal, *, lock_fd: int) -> None:
        self._group = group
        self._terminal = terminal
        self._lock_fd = lock_fd
        self.has_left = False
        self._launched: list[Launched] = []
        self._guard: _Guard | None = None
        self._last: Program | None = None
        self._mark = f"{os.getpid()}-{secrets.token_hex(8)}"
        self._failure: asyncio.Future[ProgramEnded] = asyncio.get_running_loop().create_future()

    async def open(self, last: Program | None = None) -> None:
        """Start the guard. Call this first.

        `last` is run at the end if a program was killed: it cleans up what that program left.
        """
        self._guard = await _Guard.start(self._lock_fd, self._mark)
        if last is not None:
            self._last = self._marked(last)
            self._guard.last(self._last)

    def launch(self, program: Program) -> Launched:
        """Start a program; `wait_ready` waits until it is ready."""
        assert self._guard is not None, "open() comes first"
        launched = Launched(self._marked(program), self._terminal, self._guard)
        self._launched.append(launched)
        launched.task = self._group.create_task(self._keep(launched), name=f"keep {program.name}")
        return launched

    async def wait_ready(self, launched: Launched, ready: Ready, *, timeout_s: float) -> None:
        """Wait until the program is ready. From then on it is restarted if it exits.

        Raises `ProgramEnded` if it, or another program, exits before that, or if it takes too long.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while launched.pid is None or not await ready(launched.pid):
                    if self._failure.done():
                        raise self._failure.result()
                    # Only the program knows when it is ready, and it cannot report that in any
                    # other way.
                    await asyncio.sleep(_READY_POLL_S)
        except TimeoutError:
            raise launched.ended(f"was not ready after {timeout_s:g} s") from None
        launched.is_restarted = True

    async def failure(self) -> ProgramEnded:
        """Wait until a program has exited for good."""
        return await asyncio.shield(self._failure)

    async def stop(self) -> tuple[str, ...]:
        """Stop every program, the last started first. Returns the names of those that had to be
        killed.

        Nothing that they started outlives them, including agents; otherwise `has_left` says so.
        Always returns: within the sum of the patiences, plus a minute if one had to be killed.
        """
        in_order = sorted(self._launched, key=lambda one: -one.program.rank)
        killed = [one.program.name for one in in_order if not await one.stop()]
        left = await asyncio.to_thread(guard.end_marked, f"{UP_MARK}={self._mark}")
        if left:
            self._terminal.step(f"{left} processes do not die")
        if killed and self._last is not None and not await _runs(self._last):
            self._terminal.step("what the killed programs left could not all be tidied")
            left += 1
        if self._guard is not None:
            await self._guard.dismiss()
        self.has_left = bool(left)
        return tuple(killed)

    def _marked(self, program: Program) -> Program:
        return replace(program, environ={**program.environ, UP_MARK: self._mark})

    async def _keep(self, launched: Launched) -> None:
        delay_s, restarts = _FIRST_DELAY_S, 0
        while True:
            lived_s = await launched.run_once()
            if launched.is_stopping:
                return
            if lived_s > CALM_S:
                delay_s, restarts = _FIRST_DELAY_S, 0
            if not launched.is_restarted or restarts >= RESTARTS_MAX:
                self._fail(launched.ended())
                return
            restarts += 1
            again = f"starting it again in {delay_s:g} s ({restarts}/{RESTARTS_MAX})"
            self._terminal.step(f"{launched.ended()}: {again}")
            launched.show_last_lines()
            if await launched.stopping_within(delay_s):
                return
            delay_s *= 2

    def _fail(self, why: ProgramEnded) -> None:
        if not self._failure.done():
            self._failure.set_result(why)


class Launched:
    """One program and its current process."""

    def __init__(self, program: Program, terminal: Terminal, guard_: _Guard) -> None:
        self.program = program
        self.task: asyncio.Task[None] | None = None
        self.is_restarted = False
        self._terminal = terminal
        self._guard = guard_
        self._process: asyncio.subprocess.Process | None = None
        self._exit_code: int | None = None
        self._stopping = asyncio.Event()
        self._last: deque[str] = deque(maxlen=40)

    @property
    def is_stopping(self) -> bool:
        return self._stopping.is_set()

    @property
    def last_lines(self) -> tuple[str, ...]:
        """The newest output that was not shown yet."""
        return tuple(self._last) if self.program.is_quiet else ()

    @property
    def pid(self) -> int | None:
        """The current process; None while there is none."""
        return self._process.pid if self._process else None

    def ended(self, what: str | None = None) -> ProgramEnded:
        return ProgramEnded(self.program.name, what or _how(self._exit_code), self.last_lines)

    def show_last_lines(self) -> None:
        for line in self.last_lines:
            self._terminal.program_line(self.program.name, line)

    async def stopping_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return False
        return True

    async def run_once(self) -> float:
        """Run the program until it exits. Returns how many seconds it ran."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        self._exit_code = None
        async with asyncio.TaskGroup() as group:
            reader, writer = os.pipe()
            try:
                self._process = process = await asyncio.create_subprocess_exec(
                    *self.program.command,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=writer,
                    stderr=writer,
                    env=dict(self.program.environ),
                    start_new_session=True,
                )
            except OSError as error:
                os.close(reader)
                self._last.append(str(error))
                self._exit_code = 127
                return loop.time() - begun
            finally:
                os.close(writer)
            self._guard.born(self.program, process.pid)
            if self.is_stopping:  # It was requested before the process existed.
                self._terminate()
            output = group.create_task(self._show_output(reader))
            code = await process.wait()
            self._guard.dead(process.pid)
            # A grandchild may keep the pipe open as long as it lives.
            await asyncio.wait({output}, timeout=_OUTPUT_END_TIMEOUT_S)
            output.cancel()
            self._exit_code = code
        return loop.time() - begun

    async def stop(self) -> bool:
        """SIGTERM, patience, then SIGKILL to whatever is left of its process group.

        False if its patience ran out.
        """
        self._stopping.set()
        self._terminate()
        has_left = await self._is_over(self.program.stop_timeout_s)
        if not has_left:
            self._terminal.step(
                f"{self.program.name} did not stop within {self.program.stop_timeout_s:g} s: "
                "killing it"
            )
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        await self._is_over(_KILL_TIMEOUT_S)
        return has_left

    def _terminate(self) -> None:
        if self._process is not None and self._process.returncode is None:
            guard.ask_to_end(self._process.pid)

    async def _is_over(self, within_s: float) -> bool:
        if self.task is None or self.task.done():
            return True
        done, _ = await asyncio.wait({self.task}, timeout=within_s)
        return bool(done)

    async def _show_output(self, fd: int) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(fd, "rb", 0)
        )
        with contextlib.closing(transport):
            rest = b""
            while chunk := await reader.read(_LINE_MAX_BYTES):
                rest = self._take_lines(rest + chunk)
            self._take_lines(rest + b"\n" if rest else b"")

    def _take_lines(self, raw: bytes) -> bytes:
        """Show the complete lines. Returns the incomplete rest."""
        *lines, rest = raw.split(b"\n")
        if len(rest) > _LINE_MAX_BYTES:
            lines, rest = [*lines, rest], b""
        for line in lines:
            text = line.decode(errors="replace").rstrip("\r")
            self._last.append(text)
            if not self.program.is_quiet:
                self._terminal.program_line(self.program.name, text)
        return rest


class _Guard:
    """Our end of the guard's pipe."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, lock_fd: int, mark: str) -> _Guard:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-S",
            str(Path(guard.__file__)),
            f"{UP_MARK}={mark}",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            pass_fds=(lock_fd,),
            env=bare_environment(),  # It needs none of our settings, and certainly no secrets.
            start_new_session=True,
        )
        return cls(process)

    def last(self, program: Program) -> None:
        told = {
            "command": program.command,
            "environ": dict(program.environ),
            "timeout_s": program.stop_timeout_s,
        }
        self._tell(f"! {json.dumps(told)}")

    def born(self, program: Program, pid: int) -> None:
        self._tell(f"+ {program.rank} {pid} {program.stop_timeout_s}")

    def dead(self, pid: int) -> None:
        self._tell(f"- {pid}")

    async def dismiss(self) -> None:
        """Everything has ended. Afterwards only we hold the lock."""
        self._tell("bye")
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(_KILL_TIMEOUT_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()

    def _tell(self, line: str) -> None:
        # A few short lines fit into a pipe's buffer, so there is nothing to drain. If the guard was
        # killed, we only lose the last resort.
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, RuntimeError):
            self._process.stdin.write(line.encode() + b"\n")


async def _runs(program: Program) -> bool:
    """Run a program to its end, limited by its patience. Returns whether it succeeded."""
    try:
        process = await asyncio.create_subprocess_exec(
            *program.command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            env=dict(program.environ),
            start_new_session=True,
        )
    except OSError:
        return False
    try:
        async with asyncio.timeout(program.stop_timeout_s):
            return await process.wait() == 0
    except TimeoutError:
        process.kill()
        await process.wait()
        return False


def _how(code: int | None) -> str:
    if code is None:
        return "has not ended"
    if code < 0:
        names: Iterator[str] = (s.name for s in signal.Signals if s == -code)
        return f"was ended by {next(names, f'signal {-code}')}"
    return f"ended by itself with exit code {code}"
