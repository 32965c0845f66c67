"""The control socket: receives the workers' commands (`infra.wire.gateway`)."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import WSMsgType, web

from infra.runtime.http_log import http_log
from infra.runtime.logs import fields
from infra.runtime.sockets import BoundSocket, SocketRefused, is_answered, listen_at
from infra.wire.base import Message
from infra.wire.errors import AgClusterError, KeyNotOpened, MalformedMessage, UnknownMessage
from infra.wire.gateway import (
    CloseTurn,
    GatewayFault,
    GatewayRefused,
    OpenTurn,
    SealKey,
    decode_open_session,
    decode_open_turn,
    decode_side_call,
    decode_turn_command,
)
from infra.wire.ids import ConversationKey, Fence, TurnId
from infra.wire.mcp.logins import decode_renew_login
from worker.gateway.model.side_calls import SideCalls
from worker.gateway.model.upstream_watch import UpstreamWatch
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

    def __init__(
        self,
        table: SessionTable,
        side_calls: SideCalls,
        watch: UpstreamWatch,
        bound: BoundSocket,
    ) -> None:
        self._table = table
        self._side_calls = side_calls
        self._watch = watch
        self._bound = bound
        self._lines: set[web.WebSocketResponse] = set()
        app = web.Application(client_max_size=side_calls.body_max_bytes + _ENVELOPE_MAX_BYTES)
        app.add_routes(
            [
                web.put("/sessions/{conversation}", _answering(self._open_session)),
                web.delete("/sessions/{conversation}", _answering(self._close_session)),
                web.get("/turns", self._turns),
                # For workers of an earlier build.
                web.put("/sessions/{conversation}/turn", _answering(self._open_turn)),
                web.delete("/sessions/{conversation}/turn/{turn}", _answering(self._close_turn)),
                web.post("/sessions/{conversation}/complete", _answering(self._complete)),
                web.post("/logins/renew", _answering(self._renew_login)),
                web.get("/meters", _answering(self._meters)),
                web.get("/health", _answering(self._health)),
                web.get("/upstream", _answering(self._ask_upstream)),
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
        for line in tuple(self._lines):
            await line.close()
        await self._runner.cleanup()

    async def _open_session(self, request: web.Request) -> Message:
        command = decode_open_session(await request.read())
        await self._table.open_session(_conversation(request), command)
        return self._table.status()

    async def _close_session(self, request: web.Request) -> Message:
        await self._table.close_session(_conversation(request), _fence(request))
        return self._table.status()

    async def _turns(self, request: web.Request) -> web.WebSocketResponse:
        """Open and close turns until the worker hangs up. Nothing in between waits for anything."""
        line = web.WebSocketResponse(
            timeout=_CLOSE_S, max_msg_size=_ENVELOPE_MAX_BYTES, compress=False
        )
        await line.prepare(request)
        self._lines.add(line)
        try:
            async for message in line:
                if message.type is not WSMsgType.BINARY:
                    break
                await line.send_bytes(self._answer_to(message.data).encode())
        finally:
            self._lines.discard(line)
        return line

    def _answer_to(self, raw: bytes) -> Message:
        try:
            match decode_turn_command(raw):
                case OpenTurn() as command:
                    self._table.open_turn(command)
                    return self._table.status()
                case CloseTurn(conversation=c, turn=turn, fence=fence):
                    return self._table.close_turn(c, turn, fence)
                case SealKey() as command:
                    return self._table.seal_key(command)
        except AgClusterError as error:
            return _refusal(error)[1]

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

    async def _renew_login(self, request: web.Request) -> Message:
        return await self._table.logins.renew(decode_renew_login(await request.read()))

    async def _meters(self, request: web.Request) -> Message:
        return self._table.ledger.read_open()

    async def _health(self, request: web.Request) -> Message:
        return self._table.status().model_copy(update={"upstream": self._watch.health})

    async def _ask_upstream(self, request: web.Request) -> Message:
        return await self._watch.ask()


def _answering(handler: _Handler) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Translates our messages and errors to HTTP."""

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            answered = await handler(request)
        except AgClusterError as error:
            status, refused = _refusal(error)
            return _as_json(refused, status)
        return _as_json(answered, 200) if isinstance(answered, Message) else answered

    return answer


def _refusal(error: AgClusterError) -> tuple[int, GatewayRefused]:
    """A status and what the worker is told. Raises errors that are nobody's refusal."""
    match error:
        case StaleFence(fence=fence):
            return 409, _refused(GatewayFault.STALE_FENCE, error, fence=fence)
        case NoSession():
            return 404, _refused(GatewayFault.NO_SESSION, error)
        case KeyNotOpened():
            log.warning("key not opened", extra=fields(reason=error))
            return 403, _refused(GatewayFault.KEY_NOT_OPENED, error)
        case SocketRefused():
            log.warning("session not opened", extra=fields(reason=error))
            return 422, _refused(GatewayFault.NO_SOCKETS, error)
        case MalformedMessage() | UnknownMessage():
            return 400, _refused(GatewayFault.BAD_REQUEST, error)
        case _:
            raise error


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
