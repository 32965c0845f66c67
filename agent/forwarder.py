"""Network access for tools: a TCP port on loopback that leads to the egress socket.

Programs support `HTTP_PROXY`, not Unix sockets. The gateway behind the socket decides what is
allowed; this module only passes bytes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path

log = logging.getLogger(__name__)

PORT = 3128
CONNECT_TIMEOUT_S = 10.0
_CHUNK_BYTES = 64 * 1024


class Forwarder:
    """Starts to listen when it is first asked for its address, if the egress socket exists then."""

    def __init__(self, egress_socket: Path, group: asyncio.TaskGroup, *, port: int = PORT) -> None:
        self._egress_socket = egress_socket
        self._group = group
        self._port = port
        self._server: asyncio.Server | None = None
        self._open = set[asyncio.Task[None]]()

    def beside(self) -> Forwarder:
        """Another one that leads to the same place, and can be ended by itself."""
        return Forwarder(self._egress_socket, self._group, port=0)

    async def proxy_url(self, *, is_expected: bool = False) -> str | None:
        """`http://127.0.0.1:<port>`, or None without egress.

        `is_expected`: the egress socket will be there when something connects; until then
        connections are closed.
        """
        if self._server is None:
            if not is_expected and not self._egress_socket.is_socket():
                return None
            self._server = await self._listen()
        port = self._server.sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}"

    def close(self) -> None:
        """Stop listening. Open connections end with the task group."""
        if self._server is not None:
            self._server.close()

    def end(self) -> None:
        """Stop listening, and end the open connections."""
        self.close()
        for task in self._open:
            task.cancel()

    async def _listen(self) -> asyncio.Server:
        try:
            return await asyncio.start_server(self._accept, "127.0.0.1", self._port)
        except OSError as error:
            log.warning("port %d is taken (%s), using another", self._port, error)
            return await asyncio.start_server(self._accept, "127.0.0.1", 0)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._group.create_task(self._forward(reader, writer))
        self._open.add(task)
        task.add_done_callback(self._open.discard)
        # Also if it ends before it has begun.
        task.add_done_callback(lambda _: writer.close())

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                out_reader, out_writer = await asyncio.open_unix_connection(self._egress_socket)
        except (OSError, TimeoutError) as error:
            log.warning("the egress socket does not answer: %s", error)
            return
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_pass_on(reader, out_writer))
                group.create_task(_pass_on(out_reader, writer))
        except* OSError:
            pass  # One side closed the connection, which is how most connections end.
        finally:
            out_writer.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until one side closes. An idle connection stays open as long as its program wants it."""
    while chunk := await reader.read(_CHUNK_BYTES):
        writer.write(chunk)
        await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()
