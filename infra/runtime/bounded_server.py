"""Accepts connections for an aiohttp HTTP server, up to a limit.

Each connection costs a file descriptor and a few kilobytes, even if it never sends a request. A
process without free descriptors cannot serve anyone.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sized
from typing import Protocol

log = logging.getLogger(__name__)

_NO_DESCRIPTOR_S = 0.5


class Connections(Protocol):
    """A factory of protocols, such as `aiohttp.web.Server`, that knows its open connections."""

    def __call__(self) -> asyncio.Protocol:
        """Create a protocol for a new connection."""
        ...

    @property
    def connections(self) -> Sized:
        """The open connections."""
        ...


async def take_connections(
    listening: socket.socket,
    server: Connections,
    *,
    most: int,
    turned_away: Callable[[], None],
) -> None:
    """Accept connections until cancelled.

    A connection beyond `most` is closed at once, and `turned_away` is called. The caller closes the
    socket; the server closes its connections.
    """
    loop = asyncio.get_running_loop()
    while True:
        try:
            taken, _ = await loop.sock_accept(listening)
        except OSError as error:
            # No descriptor is free: a connection has to end first.
            log.warning("no connection can be taken: %s", error)
            await asyncio.sleep(_NO_DESCRIPTOR_S)
            continue
        if len(server.connections) >= most:
            taken.close()
            turned_away()
            continue
        try:
            await loop.connect_accepted_socket(server, taken)
        except OSError:
            taken.close()  # It was already closed.
        except BaseException:
            taken.close()
            raise
