"""What an answer may ask of its client's connection, beyond ASGI.

ASGI's `send` may wait, so only the request's own task can call it, and only a task that waits in
`receive` learns that the client has left. A connection that offers itself here takes the next bytes
of a body from any code of the loop, at once or not at all, and tells when its client leaves.
(`api.http.connection` does; under other servers, answers do without.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol
from weakref import ref

from starlette.types import Scope

_EXTENSION = "agcluster.connection"
"""Its name among the extensions of a request's scope."""


class ClientConnection(Protocol):
    """The connection of one request that is being answered."""

    @property
    def is_clogged(self) -> bool:
        """Whether more is unsent than may be: the client reads too little. `send` would wait."""
        ...

    def push(self, body: bytes) -> bool:
        """Write the next bytes of a streamed body. Never waits.

        Returns False, and writes nothing, if the connection is clogged or closing, or if the body
        is not sent in chunks. May only be called between two calls of `send`.
        """
        ...

    def on_departure(self, tell: Callable[[], None] | None) -> bool:
        """Call this, once, when the client has disconnected; None: nobody.

        Returns False, and calls nothing, if the request's body has not arrived completely: then
        only ASGI's `receive` tells, as it has to read the rest.
        """
        ...


def offered(connection: ClientConnection) -> dict[str, dict[object, object]]:
    """The extensions of a scope whose application may ask this connection."""
    # Weakly, because it has the scope: a request that is over must not wait for the collector.
    return {_EXTENSION: {"ref": ref(connection)}}


def connection_of(scope: Scope) -> ClientConnection | None:
    """The connection of this request, if it can be asked."""
    extension = scope.get("extensions", {}).get(_EXTENSION)
    if extension is None:
        return None
    connection: ClientConnection | None = extension["ref"]()
    return connection
