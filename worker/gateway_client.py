"""The worker's side of its host's gateway.

Every call has a deadline and raises `GatewayUnavailable` when the gateway does not answer in time.
What was opened is remembered until it is closed, so `keep_registered` can tell a restarted gateway
all of it again: the keys arrive sealed, as before.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp

from infra.runtime.logs import fields
from infra.wire.base import Message
from infra.wire.errors import (
    AgClusterError,
    GatewayUnavailable,
    KeyNotOpened,
    LeaseLost,
    MalformedMessage,
)
from infra.wire.gateway import (
    GatewayFault,
    GatewayRefused,
    GatewayStatus,
    OpenSession,
    OpenTurn,
    TurnMeter,
    decode_meter,
    decode_refused,
    decode_status,
)
from infra.wire.ids import ConversationKey, Fence, TurnId

log = logging.getLogger(__name__)

_BASE = "http://gateway"


class SessionNotOpen(GatewayUnavailable):
    """The gateway restarted and does not know the session (yet)."""


class GatewayClient:
    """Commands to the gateway of this host.

    Refusals: `LeaseLost` when a newer owner's fence stands, `KeyNotOpened` for a sealed key that is
    broken or expired, `SessionNotOpen` for a turn of an unknown session, `GatewayUnavailable` else.
    """

    def __init__(self, socket: Path, *, timeout_s: float = 5.0) -> None:
        self._socket = socket
        self._timeout_s = timeout_s
        self._http: aiohttp.ClientSession | None = None
        self._sessions: dict[ConversationKey, OpenSession] = {}
        self._turns: dict[ConversationKey, OpenTurn] = {}
        self._instance: str | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def open_session(
        self, conversation: ConversationKey, socket_dir: Path, fence: Fence
    ) -> GatewayStatus:
        """Returns when both sockets listen in the folder."""
        command = OpenSession(socket_dir=str(socket_dir), fence=fence)
        status = decode_status(await self._send("PUT", f"/sessions/{conversation}", command))
        self._sessions[conversation] = command
        return status

    async def close_session(self, conversation: ConversationKey, fence: Fence) -> None:
        """Remove its sockets, forget its keys. One that is gone already is no error."""
        self._sessions.pop(conversation, None)
        self._turns.pop(conversation, None)
        await self._send("DELETE", f"/sessions/{conversation}?fence={fence}")

    async def open_turn(self, command: OpenTurn) -> None:
        """Let the session's model calls through; a turn that was open before ends."""
        await self._send("PUT", f"/sessions/{command.conversation}/turn", command)
        self._turns[command.conversation] = command

    async def close_turn(
        self, conversation: ConversationKey, turn: TurnId, fence: Fence
    ) -> TurnMeter:
        """Break off the turn's model calls and connections, wipe its key.

        The meter is empty when the gateway has restarted since.
        """
        remembered = self._turns.get(conversation)
        if remembered is not None and remembered.turn == turn:
            del self._turns[conversation]
        path = f"/sessions/{conversation}/turn/{turn}?fence={fence}"
        return decode_meter(await self._send("DELETE", path))

    async def status(self) -> GatewayStatus:
        """Whether it is up, and which start of it."""
        return decode_status(await self._send("GET", "/health"))

    def forget(self, conversation: ConversationKey) -> None:
        """Register it no more: another worker owns it now."""
        self._sessions.pop(conversation, None)
        self._turns.pop(conversation, None)

    async def keep_registered(self, *, interval_s: float = 0.5) -> None:
        """Register everything again whenever the gateway has restarted; for ever.

        The CLI retries a broken model call for two seconds or so: the interval has to be well below
        that for a turn to outlive a restart of the gateway.
        """
        while True:
            try:
                await self.register_if_restarted()
            except GatewayUnavailable as error:
                if self._instance is not None:
                    log.warning("gateway is away", extra=fields(reason=error))
                self._instance = None
            await asyncio.sleep(interval_s)

    async def register_if_restarted(self) -> bool:
        """Ask for its instance; tell another one than before all that is open."""
        status = await self.status()
        if status.instance == self._instance:
            return False
        sessions, turns = dict(self._sessions), dict(self._turns)
        for conversation, session in sessions.items():
            await self._register(f"/sessions/{conversation}", session)
        for conversation, turn in turns.items():
            await self._register(f"/sessions/{conversation}/turn", turn)
        self._instance = status.instance
        if sessions:
            told = fields(instance=status.instance, sessions=len(sessions), turns=len(turns))
            log.info("told the gateway what is open", extra=told)
        return True

    async def aclose(self) -> None:
        """Let go of the connection."""
        if self._http is not None:
            await self._http.close()

    async def _register(self, path: str, command: OpenSession | OpenTurn) -> None:
        """One refusal (a key that expired, a newer owner) must not keep the others out."""
        try:
            await self._send("PUT", path, command)
        except GatewayUnavailable as error:
            if not isinstance(error.__cause__, _Refusal):
                raise
            log.warning("gateway refused a session", extra=fields(path=path, reason=error))
        except (LeaseLost, KeyNotOpened) as error:
            log.warning("gateway refused a session", extra=fields(path=path, reason=error))

    async def _send(self, method: str, path: str, command: Message | None = None) -> bytes:
        body = command.encode() if command is not None else None
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._session().request(method, _BASE + path, data=body) as answer,
            ):
                raw = await answer.read()
                if answer.status < 300:
                    return raw
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            told = f"{type(error).__name__}: {error}".rstrip(": ")
            raise GatewayUnavailable(f"gateway at {self._socket}: {told}") from error
        raise _refusal(raw, path, answer.status)

    def _session(self) -> aiohttp.ClientSession:
        if self._http is None:
            connector = aiohttp.UnixConnector(path=str(self._socket), limit=0)
            self._http = aiohttp.ClientSession(connector=connector)
        return self._http


class _Refusal(AgClusterError):
    """The gateway's own words, kept as the cause of what we raise."""


def _refusal(raw: bytes, path: str, status: int) -> AgClusterError:
    conversation = path.split("/")[2] if path.count("/") > 1 else ""
    try:
        refused = decode_refused(raw)
    except MalformedMessage:
        return GatewayUnavailable(f"gateway answered {status} to {path}")
    return _as_error(refused, conversation)


def _as_error(refused: GatewayRefused, conversation: str) -> AgClusterError:
    error: AgClusterError
    match refused.fault:
        case GatewayFault.STALE_FENCE:
            error = LeaseLost(conversation.partition("?")[0], refused.fence or 0)
        case GatewayFault.KEY_NOT_OPENED:
            error = KeyNotOpened(refused.message)
        case GatewayFault.NO_SESSION:
            error = SessionNotOpen(refused.message)
        case _:
            error = GatewayUnavailable(refused.message)
    error.__cause__ = _Refusal(refused.message)
    return error
