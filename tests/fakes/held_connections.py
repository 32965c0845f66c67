"""Connections that somebody opens and never says a word on."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

PATIENCE_S = 20.0


class HeldConnections:
    """Any number of them to one Unix socket."""

    def __init__(self, held: Sequence[socket.socket]) -> None:
        self._held = held

    @property
    def closed(self) -> int:
        """How many the other side has closed."""
        return sum(map(_is_closed, self._held))

    async def until_closed(self, count: int) -> None:
        """Until so many are. Nothing tells when."""
        async with asyncio.timeout(PATIENCE_S):
            while self.closed < count:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


@asynccontextmanager
async def held_connections(path: Path, count: int) -> AsyncIterator[HeldConnections]:
    """So many, closed behind the block."""
    with ExitStack() as opened:
        held = [opened.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(count)]
        for one in held:
            # Not by the loop, which takes one for connected that a full backlog has refused.
            await asyncio.to_thread(one.connect, str(path))
            one.setblocking(False)
        yield HeldConnections(held)


def _is_closed(held: socket.socket) -> bool:
    try:
        return held.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
