"""The SDK's transport for a CLI that runs already (`agent.cli.early`).

The SDK's own transport starts its process itself. This one does the same for a given one: lines of
JSON in both directions, and an end within bounded time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
from collections.abc import AsyncIterator, Callable
from typing import Any

from claude_agent_sdk import CLIConnectionError, CLIJSONDecodeError, ProcessError, Transport

EXIT_S = 5.0
"""A CLI whose input has ended has this long to write its files, as with the SDK's own transport."""


class EarlyTransport(Transport):
    """Speaks to a running process. Belongs to one loop."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        *,
        line_max_bytes: int,
        on_stderr: Callable[[str], None],
    ) -> None:
        self._process = process
        self._output = asyncio.StreamReader(limit=line_max_bytes)
        self._errors = asyncio.StreamReader(limit=line_max_bytes)
        self._on_stderr = on_stderr
        self._input: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._pipes: list[asyncio.BaseTransport] = []

    async def connect(self) -> None:
        """Attach to its pipes."""
        if self._input is not None:
            return
        loop = asyncio.get_running_loop()
        for reader, pipe in (
            (self._output, self._process.stdout),
            (self._errors, self._process.stderr),
        ):
            protocol = asyncio.StreamReaderProtocol(reader)
            self._pipes.append((await loop.connect_read_pipe(lambda p=protocol: p, pipe))[0])  # type: ignore[misc]
        transport, flow = await loop.connect_write_pipe(
            asyncio.streams.FlowControlMixin, self._process.stdin
        )
        self._pipes.append(transport)
        self._input = asyncio.StreamWriter(transport, flow, None, loop)
        self._reading = loop.create_task(self._read_errors())

    async def write(self, data: str) -> None:
        """Raises `CLIConnectionError`."""
        if self._input is None or self._input.is_closing():
            raise CLIConnectionError("the CLI takes no more input")
        try:
            self._input.write(data.encode())
            await self._input.drain()
        except OSError as error:
            raise CLIConnectionError(f"the CLI takes no input: {error}") from error

    async def end_input(self) -> None:
        """Close its input, which ends it."""
        if self._input is not None:
            self._input.close()

    def is_ready(self) -> bool:
        """Whether it can be written to."""
        return self._input is not None and not self._input.is_closing()

    async def read_messages(self) -> AsyncIterator[dict[str, Any]]:
        """Its messages until it exits. Raises `ProcessError` if it failed, and
        `CLIJSONDecodeError`."""
        while line := await self._line():
            # Anything else is no message; some builds of the CLI write such lines.
            if line.startswith(b"{"):
                try:
                    yield json.loads(line)
                except ValueError as error:
                    if not line.endswith(b"\n"):
                        break  # It was cut off in the middle of a message.
                    raise CLIJSONDecodeError(line.decode(errors="replace"), error) from error
        if code := await asyncio.to_thread(self._process.wait):
            raise ProcessError(f"Command failed with exit code {code}", exit_code=code)

    async def close(self) -> None:
        """End it: by the end of its input, or by force after `EXIT_S`."""
        await self.end_input()
        if self._reading is not None:
            self._reading.cancel()
        try:
            await asyncio.to_thread(self._process.wait, EXIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)
        finally:
            for pipe in self._pipes:
                with contextlib.suppress(OSError):
                    pipe.close()

    async def _line(self) -> bytes:
        try:
            return await self._output.readline()
        except ValueError as error:
            raise CLIJSONDecodeError("a message that is too long", error) from error

    async def _read_errors(self) -> None:
        with contextlib.suppress(ValueError):
            while line := await self._errors.readline():
                if told := line.decode(errors="replace").rstrip():
                    self._on_stderr(told)
