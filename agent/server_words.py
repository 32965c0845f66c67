"""The MCP servers in the container: which processes they are, and the last words of each, which is
what it wrote to its standard error.

Bounded, because servers write as much as they like, and so does a tool that finds the socket.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from pathlib import Path

log = logging.getLogger(__name__)

TAIL_BYTES = 2000
SERVERS_MAX = 64
LINES_MAX = 64
"""Connections at a time."""
_NAME_MAX_BYTES = 64


class ServerWords:
    """Keeps them, from `listen` on."""

    def __init__(self, path: Path, group: asyncio.TaskGroup) -> None:
        self.path = path
        """Where it listens."""
        self._group = group
        self._server: asyncio.Server | None = None
        self._open = 0
        self._tails: dict[str, bytes] = {}
        self.processes: dict[str, int] = {}
        """The process id of each server that runs, as the kernel tells it."""

    async def listen(self) -> None:
        """May be called repeatedly."""
        if self._server is None:
            self._server = await asyncio.start_unix_server(
                self._accept, str(self.path), limit=_NAME_MAX_BYTES
            )

    def last(self, name: str) -> str | None:
        """The last line that the server wrote; None if it wrote nothing."""
        lines = self._tails.get(name, b"").decode(errors="replace").splitlines()
        return next((line.strip() for line in reversed(lines) if line.strip()), None)

    def close(self) -> None:
        """Stop listening. Open lines end with the task group."""
        if self._server is not None:
            self._server.close()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._open >= LINES_MAX:
            writer.close()
            return
        self._open += 1
        task = self._group.create_task(self._listen(reader, _peer(writer)))
        task.add_done_callback(lambda _: self._hang_up(writer))

    def _hang_up(self, writer: asyncio.StreamWriter) -> None:
        self._open -= 1
        writer.close()

    async def _listen(self, reader: asyncio.StreamReader, process: int) -> None:
        name = ""
        try:
            name = (await reader.readuntil(b"\n")).decode(errors="replace").strip()
            if name not in self._tails and len(self._tails) >= SERVERS_MAX:
                return
            self._tails[name], self.processes[name] = b"", process
            while piece := await reader.read(4096):
                self._tails[name] = (self._tails[name] + piece)[-TAIL_BYTES:]
        except (OSError, asyncio.LimitOverrunError, asyncio.IncompleteReadError) as error:
            log.debug("a server's words broke off: %s", error)
        finally:
            if self.processes.get(name) == process:
                del self.processes[name]


def _peer(writer: asyncio.StreamWriter) -> int:
    raw = writer.get_extra_info("socket").getsockopt(
        socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")
    )
    process: int = struct.unpack("3i", raw)[0]
    return process
