"""TCP ports: whether one can be used, which one is free, whether somebody answers."""

from __future__ import annotations

import asyncio
import errno
import socket

_CONNECT_TIMEOUT_S = 1.0


def port_fault(host: str, port: int) -> str | None:
    """Why the API cannot listen there, and what to do; None if it can."""
    if port == 0:
        return None
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return (
                f"port {port} on {host} is in use: choose another with --port "
                "(make run PORT=...) or AGCLUSTER_PORT"
            )
        return f"cannot listen on {host}:{port}: {error.strerror or error}"
    return None


def free_port() -> int:
    """A loopback port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def tcp_answers(host: str, port: int) -> bool:
    """Whether somebody accepts connections there."""
    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True
