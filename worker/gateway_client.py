"""The worker's side of its host's gateway: `worker.gateways.Gateway` over the control socket."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp

from infra.wire.base import Message
from infra.wire.errors import GatewayUnavailable, MalformedMessage
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

_BASE = "http://gateway"


class CommandRefused(GatewayUnavailable):
    """The gateway is there and said no: asking again alone does not help.

    `fault` says why, `fence` is the one that stands when ours was stale.
    """

    def __init__(self, refused: GatewayRefused) -> None:
        super().__init__(refused.message)
        self.fault: GatewayFault = refused.fault
        self.fence = refused.fence


class GatewayClient:
    """Commands to the gateway of this host.

    Every call has a deadline, may be repeated and cancelled, and raises `GatewayUnavailable` when
    the gateway does not answer in time or (`CommandRefused`) says no.
    """

    def __init__(self, socket: Path, *, timeout_s: float = 5.0) -> None:
        self._socket = socket
        self._timeout_s = timeout_s
        self._http: aiohttp.ClientSession | None = None
        self._fences: dict[ConversationKey, Fence] = {}

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
        self, conversation: ConversationKey, request: OpenSession
    ) -> GatewayStatus:
        """Returns when both sockets listen in the folder."""
        # Remembered before the answer: what may have been opened is closed with its own fence.
        self._fences[conversation] = request.fence
        return decode_status(await self._send("PUT", f"/sessions/{conversation}", request))

    async def close_session(self, conversation: ConversationKey) -> GatewayStatus:
        """Remove its sockets, forget its keys. Refused when a newer owner has opened it since."""
        path = f"/sessions/{conversation}{self._fence(conversation)}"
        status = decode_status(await self._send("DELETE", path))
        self._fences.pop(conversation, None)
        return status

    async def open_turn(self, request: OpenTurn) -> GatewayStatus:
        """Let the session's model calls through; a turn that was open before ends."""
        path = f"/sessions/{request.conversation}/turn"
        return decode_status(await self._send("PUT", path, request))

    async def close_turn(self, conversation: ConversationKey, turn: TurnId) -> TurnMeter:
        """Break off the turn's model calls and connections, wipe its key.

        The meter is empty when the gateway has restarted since.
        """
        path = f"/sessions/{conversation}/turn/{turn}{self._fence(conversation)}"
        return decode_meter(await self._send("DELETE", path))

    async def status(self) -> GatewayStatus:
        """Whether it is up, and which start of it."""
        return decode_status(await self._send("GET", "/health"))

    async def aclose(self) -> None:
        """Let go of the connections."""
        if self._http is not None:
            await self._http.close()

    def _fence(self, conversation: ConversationKey) -> str:
        fence = self._fences.get(conversation)
        return "" if fence is None else f"?fence={fence}"

    async def _send(self, method: str, path: str, command: Message | None = None) -> bytes:
        body = command.encode() if command is not None else None
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._session().request(method, _BASE + path, data=body) as answer,
            ):
                raw = await answer.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            told = f"{type(error).__name__} {error}".rstrip()
            raise GatewayUnavailable(f"gateway at {self._socket}: {told}") from error
        if answer.status < 300:
            return raw
        raise _refusal(raw, answer.status)

    def _session(self) -> aiohttp.ClientSession:
        if self._http is None:
            connector = aiohttp.UnixConnector(path=str(self._socket), limit=0)
            self._http = aiohttp.ClientSession(connector=connector)
        return self._http


def _refusal(raw: bytes, status: int) -> GatewayUnavailable:
    try:
        return CommandRefused(decode_refused(raw))
    except MalformedMessage:
        return GatewayUnavailable(f"the gateway answered {status}")
