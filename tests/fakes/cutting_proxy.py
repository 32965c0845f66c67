"""A way to a server that cuts its first connections in the middle of what the server says.

with cutting_proxy("127.0.0.1", 8000, after_bytes=(900, 1300)) as proxy:
    ... f"http://127.0.0.1:{proxy.port}" ...
    assert proxy.cuts == 2
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator, Sequence

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of a connection that is reset when it is closed."""


class CuttingProxy:
    """Passes bytes on; each of its first connections only so many of the server's."""

    def __init__(self, host: str, port: int, after_bytes: Sequence[int]) -> None:
        self._server = (host, port)
        self._limits = list(after_bytes)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.cuts = 0

    def serve(self) -> None:
        """Until it is closed."""
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                limit = self._limits.pop(0) if self._limits else None
                server = socket.create_connection(self._server)
                for work in ((self._up, client, server), (self._down, server, client, limit)):
                    threading.Thread(target=work[0], args=work[1:], daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)

    def _down(self, server: socket.socket, client: socket.socket, limit: int | None) -> None:
        passed = 0
        with contextlib.suppress(OSError), server, client:
            while data := server.recv(65536):
                if limit is not None and passed + len(data) >= limit:
                    client.sendall(data[: limit - passed])
                    self.cuts += 1
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    # The other thread reads from it, which would keep it open.
                    client.shutdown(socket.SHUT_RD)
                    return
                passed += len(data)
                client.sendall(data)


@contextlib.contextmanager
def cutting_proxy(host: str, port: int, *, after_bytes: Sequence[int]) -> Iterator[CuttingProxy]:
    """The proxy on a free port of loopback."""
    proxy = CuttingProxy(host, port, after_bytes)
    thread = threading.Thread(target=proxy.serve, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.close()
        thread.join(10)
