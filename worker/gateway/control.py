"""The control socket: receives the workers' commands (`infra.wire.gateway`)."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

from infra.runtime.http_log import http_log
from infra.runtime.logs import fields
from infra.runtime.sockets import BoundSocket, SocketRefused, is_answered, listen_at
from infra.wire.base import Message
from infra.wire.errors import AgClusterError, KeyNotOpened, MalformedMessage
from infra.wire.gateway import (
    GatewayFault,
    GatewayRefused,
    decode_open_session,
    decode_open_turn,
    decode_side_call,
)
from infra.wire.ids import ConversationKey, Fence, TurnId
from worker.gateway.model.side_calls import SideCalls
from worker.gateway.sessions import NoSession, SessionTable, StaleFence

log = logging.getLogger(__name__)

SOCKET_MODE = 0o600
_FOLDER_MODE = 0o700
_ENVELOPE_MAX_BYTES = 1024 * 1024
"""Maximum size of a command, without the body of a side call in it."""
_CLOSE_S = 2.0

_Handler = Callable[[web.Request], Awaitable[Message | web.StreamResponse]]


class GatewayRunsAlready(AgClusterError):
    """Another gateway serves this host's control socket."""


def claim_control_socket(path: Path) -> BoundSocket:
    """Listen there, replacing a dead gateway's socket.

    Raises `GatewayRunsAlready` or `SocketRefused`.
    """
    try:
        path.parent.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
    except OSError as error:
        raise SocketRefused(f"cannot make {path.parent}: {error.strerror}") from error
    if is_answered(path):
        raise GatewayRunsAlready(f"a gateway answers at {path} already")
    return listen_at(path, mode=SOCKET_MODE)


class ControlServer:
    """Serves the control socket from `start` to `aclose`."""

    def __init__(self, table: SessionTable, side_calls: SideCalls, bound: BoundSocket) -> None:
        self._table = table
        self._side_calls = side_calls
        self._bound = bound
        app = web.Application(client_max_size=side_calls.body_max_bytes + _ENVELOPE_MAX_BYTES)
        app.add_routes(
            [
                web.put("/sessions/{conversation}", _answering(self._open_session)),
                web.delete("/sessions/{conversation}", _answering(self._close_session)),
                web.put("/sessions/{conversation}/turn", _answering(self._open_turn)),
                web.delete("/sessions/{conversation}/turn/{turn}", _answering(self._close_turn)),
                web.post("/sessions/{conversation}/complete", _answering(self._complete)),
                web.get("/meters", _answering(self._meters)),
                web.get("/health", _answering(self._health)),
            ]
        )
        # Cancelled when the worker disconnects, so that a side call's upstream call ends at once.
        # The other commands may be interrupted anywhere and repeated.
        self._runner = web.AppRunner(
            app,
            access_log=None,
            logger=http_log,
            shutdown_timeout=_CLOSE_S,
            handler_cancellation=True,
        )

    async def start(self) -> None:
        await self._runner.setup()
        await web.SockSite(self._runner, self._bound.socket).start()

    async def aclose(self) -> None:
        """Stop listening and remove the socket."""
        self._bound.unlink()
        await self._runner.cleanup()

    async def _open_session(self, request: web.Request) -> Message:
        command = decode_open_session(await request.read())
        await self._table.open_session(_conversation(request), command)
        return self._table.status()

    async def _close_session(self, request: web.Request) -> Message:
        await self._table.close_session(_conversation(request), _fence(request))
        return self._table.status()

    async def _open_turn(self, request: web.Request) -> Message:
        command = decode_open_turn(await request.read())
        if command.conversation != _conversation(request):
            raise MalformedMessage("the turn is of another conversation")
        self._table.open_turn(command)
        return self._table.status()

    async def _close_turn(self, request: web.Request) -> Message:
        turn = TurnId(request.match_info["turn"])
        return self._table.close_turn(_conversation(request), turn, _fence(request))

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        call = decode_side_call(await request.read())
        if call.conversation != _conversation(request):
            raise MalformedMessage("the call is of another conversation")
        return await self._side_calls.answer(request, call)

    async def _meters(self, request: web.Request) -> Message:
        return self._table.ledger.read_open()

    async def _health(self, request: web.Request) -> Message:
        return self._table.status()


def _answering(handler: _Handler) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Translates our messages and errors to HTTP. The only place here that chooses a status."""

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            answered = await handler(request)
            return _as_json(answered, 200) if isinstance(answered, Message) else answered
        except StaleFence as error:
            refused = _refused(GatewayFault.STALE_FENCE, error, fence=error.fence)
            return _as_json(refused, 409)
        except NoSession as error:
            return _as_json(_refused(GatewayFault.NO_SESSION, error), 404)
        except KeyNotOpened as error:
            log.warning("key not opened", extra=fields(reason=error))
            return _as_json(_refused(GatewayFault.KEY_NOT_OPENED, error), 403)
        except SocketRefused as error:
            log.warning("session not opened", extra=fields(reason=error))
            return _as_json(_refused(GatewayFault.NO_SOCKETS, error), 422)
        except MalformedMessage as error:
            return _as_json(_refused(GatewayFault.BAD_REQUEST, error), 400)

    return answer


def _as_json(message: Message, status: int) -> web.Response:
    return web.Response(body=message.encode(), status=status, content_type="application/json")


def _refused(
    fault: GatewayFault, error: AgClusterError, *, fence: Fence | None = None
) -> GatewayRefused:
    return GatewayRefused(fault=fault, message=str(error), fence=fence)


def _conversation(request: web.Request) -> ConversationKey:
    return ConversationKey(request.match_info["conversation"])


def _fence(request: web.Request) -> Fence | None:
    """Raises `MalformedMessage`."""
    given = request.query.get("fence")
    if given is None:
        return None
    if not given.isdecimal():
        raise MalformedMessage("fence is not a number")
    return Fence(int(given))
