"""Takes connections for an HTTP server of aiohttp, up to a number.

Each one costs a descriptor and some kilobytes whether it ever asks or not, and a process that has
no descriptor left serves nobody.
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
    """`aiohttp.web.Server`: makes a protocol for each connection and knows those that are open."""

    def __call__(self) -> asyncio.Protocol:
        """A new one."""
        ...

    @property
    def connections(self) -> Sized:
        """Those that are open."""
        ...


async def take_connections(
    listening: socket.socket,
    server: Connections,
    *,
    most: int,
    turned_away: Callable[[], None],
) -> None:
    """Until cancelled. One beyond `most` is closed at once, and `turned_away` called.

    The socket is the caller's to close, connections are the server's.
    """
    loop = asyncio.get_running_loop()
    while True:
        try:
            taken, _ = await loop.sock_accept(listening)
        except OSError as error:
            # No descriptor is left: some connection has to end first.
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
            taken.close()  # It was gone already.
        except BaseException:
            taken.close()
            raise
