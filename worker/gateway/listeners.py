"""The two sockets of a session, and their servers."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from aiohttp import web

from infra.runtime.bounded_server import take_connections
from infra.runtime.http_log import http_log
from infra.runtime.logs import fields
from infra.runtime.sockets import BoundSocket, check_folder, listen_at
from infra.wire.socket_folder import EGRESS_SOCKET, MODEL_SOCKET
from worker.gateway.egress.proxy import HEAD_MAX_BYTES, EgressProxy
from worker.gateway.model.proxy import ModelProxy
from worker.gateway.sessions import GatewaySession

log = logging.getLogger(__name__)

SOCKET_MODE = 0o666
"""Anyone who can enter the folder may connect; only the agent can."""

MODEL_CONNECTIONS_MAX = 128
"""Concurrent connections of one agent. Its client uses about ten. A container may hold a million
descriptors, while the gateway has a few thousand for all agents together."""
_CLOSE_S = 2.0


class SessionListeners:
    """Implements `worker.gateway.sessions.Listeners`."""

    def __init__(
        self,
        session: GatewaySession,
        *,
        model: ModelProxy,
        egress: EgressProxy,
        group: asyncio.TaskGroup,
    ) -> None:
        self._session = session
        self._model = model
        self._model_bounds = model.bounds()
        self._egress = egress
        self._egress_bounds = egress.bounds()
        self._group = group
        self._bound: list[BoundSocket] = []
        self._servers: list[asyncio.Server] = []
        self._web: web.Server | None = None
        self._taking: asyncio.Task[None] | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self, *, inside: Path) -> None:
        """Listen. Raises `SocketRefused`; then nothing is left behind."""
        folder = self._session.folder
        check_folder(folder, inside=inside)
        try:
            for name in (MODEL_SOCKET, EGRESS_SOCKET):
                self._bound.append(listen_at(folder / name, mode=SOCKET_MODE))
            model, egress = self._bound
            # The handler is cancelled when the agent disconnects, so that the upstream call ends at
            # once.
            self._web = web.Server(
                self._answer,
                handler_cancellation=True,
                auto_decompress=False,
                access_log=None,
                logger=http_log,
            )
            self._taking = self._group.create_task(
                take_connections(
                    model.socket,
                    self._web,
                    most=MODEL_CONNECTIONS_MAX,
                    turned_away=lambda: self._model_bounds.log.info(
                        "model connection closed: too many",
                        conversation=self._session.conversation,
                    ),
                )
            )
            self._servers.append(
                await asyncio.start_unix_server(
                    self._accept, sock=egress.socket, limit=HEAD_MAX_BYTES
                )
            )
        except BaseException:
            self.stop()
            raise

    @property
    def are_in_place(self) -> bool:
        return bool(self._bound) and all(bound.is_in_place for bound in self._bound)

    def stop(self) -> None:
        for server in self._servers:
            server.close()
        if self._taking is not None:
            self._taking.cancel()
            # The cancelled task does this a moment later only; by then a new socket may have the
            # number of the closed one.
            asyncio.get_running_loop().remove_reader(self._bound[0].socket)
        for bound in self._bound:
            bound.close()
        for connection in self._connections:
            connection.cancel()

    async def aclose(self) -> None:
        if self._web is not None:
            try:
                await self._web.shutdown(_CLOSE_S)
            except OSError as error:
                conversation = self._session.conversation
                log.debug("closing: %s", error, extra=fields(conversation=conversation))

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        return await self._model.answer(self._session, self._model_bounds, request)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A plain function, so that the task starts in our group and not in the library."""
        served = self._group.create_task(
            self._egress.serve(self._session, self._egress_bounds, (reader, writer))
        )
        self._connections.add(served)
        served.add_done_callback(self._connections.discard)
