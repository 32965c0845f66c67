"""The worker's client for its host's gateway: `worker.gateway_client.registrar.Gateway` over the
control socket."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import aiohttp

from infra.wire.base import Message
from infra.wire.errors import GatewayUnavailable, MalformedMessage, UnknownMessage
from infra.wire.gateway import (
    CloseTurn,
    GatewayFault,
    GatewayRefused,
    GatewayStatus,
    Meters,
    OpenSession,
    OpenTurn,
    SealedKey,
    SealKey,
    SideCall,
    TurnCommand,
    TurnMeter,
    UpstreamHealth,
    decode_meters,
    decode_refused,
    decode_status,
    decode_upstream,
)
from infra.wire.ids import ConversationKey, Fence, TurnId
from infra.wire.mcp.logins import RenewedLogin, RenewLogin, decode_renewed_login
from worker.gateway_client.turn_line import TurnLine

_AnswerT = TypeVar("_AnswerT", GatewayStatus, TurnMeter, SealedKey)

FENCES_MAX = 10_000
"""Far more than the sessions that a worker has open at the same time."""

_BASE = "http://gateway"
_SIDE_SILENCE_S = 330.0
"""Longer than the gateway waits for the upstream, so that its answer comes first."""
_REFUSAL_MAX_BYTES = 64 * 1024
_UPSTREAM_S = 8.0
"""Longer than the gateway waits for the upstream's sign of life."""
_LOGIN_S = 20.0
"""Longer than the gateway waits for a login's service."""


class CommandRefused(GatewayUnavailable):
    """The gateway refused a command; repeating it alone does not help.

    `fault` says why; `fence` is the current one if ours was stale.
    """

    def __init__(self, refused: GatewayRefused) -> None:
        super().__init__(refused.message)
        self.fault: GatewayFault = refused.fault
        self.fence = refused.fence


@dataclass(frozen=True)
class UpstreamAnswer:
    """The upstream's answer to a side call. `chunks`: its body as it arrives.

    Reading it raises `GatewayUnavailable` if it breaks off.
    """

    status: int
    retry_after_s: float | None
    chunks: AsyncIterator[bytes]


class GatewayClient:
    """Sends commands to the gateway of this host.

    Every call has a deadline, may be repeated and cancelled, and raises `GatewayUnavailable` if the
    gateway does not answer in time, or `CommandRefused` if it refuses.
    """

    def __init__(self, socket: Path, *, timeout_s: float = 5.0) -> None:
        self._socket = socket
        self._timeout_s = timeout_s
        self._http: aiohttp.ClientSession | None = None
        self._turns = TurnLine(self._session, base_url=_BASE)
        self._fences: OrderedDict[ConversationKey, Fence] = OrderedDict()
        """The fence with which each session was opened. A session that another worker took over is
        never closed here, so the oldest entries are dropped."""

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
        # Stored before the answer, so that a session that may be open is closed with its own fence.
        self._fences[conversation] = request.fence
        self._fences.move_to_end(conversation)
        if len(self._fences) > FENCES_MAX:
            self._fences.popitem(last=False)
        return decode_status(await self._send("PUT", f"/sessions/{conversation}", request))

    async def close_session(self, conversation: ConversationKey, fence: Fence) -> GatewayStatus:
        """Remove its sockets and wipe its keys. Refused if a newer owner has opened it since."""
        path = f"/sessions/{conversation}?fence={fence}"
        status = decode_status(await self._send("DELETE", path))
        self._fences.pop(conversation, None)
        return status

    async def open_turn(self, request: OpenTurn) -> GatewayStatus:
        """Allow the session's model calls. A turn that was open before ends."""
        return await self._ask(request, GatewayStatus)

    async def close_turn(self, conversation: ConversationKey, turn: TurnId) -> TurnMeter:
        """Cut off the turn's model calls and connections, and wipe its key.

        The meter is empty if the gateway has restarted since.
        """
        command = CloseTurn(
            turn=turn, conversation=conversation, fence=self._fences.get(conversation)
        )
        return await self._ask(command, TurnMeter)

    async def seal_key(self, request: SealKey) -> SealedKey:
        """The key of an open turn, sealed for the turn of an agent that it calls."""
        return await self._ask(request, SealedKey)

    async def renew_login(self, command: RenewLogin) -> RenewedLogin:
        """A login at an MCP server, renewed at its service."""
        return decode_renewed_login(
            await self._send("POST", "/logins/renew", command, timeout_s=_LOGIN_S)
        )

    async def meters(self) -> Meters:
        """What the running turns have used so far."""
        return decode_meters(await self._send("GET", "/meters"))

    @asynccontextmanager
    async def complete(self, call: SideCall) -> AsyncGenerator[UpstreamAnswer]:
        """The upstream's answer to one model call; leaving the block ends the call.

        Has no deadline except for silence.
        """
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=self._timeout_s, sock_read=_SIDE_SILENCE_S
        )
        path = f"/sessions/{call.conversation}/complete"
        with self._translating():
            # Not as plain bytes: those are sent in one go, and large ones block the loop.
            answer = await self._session().post(
                _BASE + path, data=BytesIO(call.encode()), timeout=timeout
            )
        try:
            async with aclosing(self._chunks(answer)) as chunks:
                if answer.status < 400:
                    yield UpstreamAnswer(answer.status, None, chunks)
                else:
                    yield await self._failure(answer, chunks)
        finally:
            # Closes its connection too, unless it was read to the end.
            answer.close()

    async def _failure(
        self, answer: aiohttp.ClientResponse, chunks: AsyncIterator[bytes]
    ) -> UpstreamAnswer:
        """The upstream's complete error. Raises `CommandRefused` if it is the gateway's own."""
        raw = bytearray()
        async for chunk in chunks:
            raw += chunk
            if len(raw) > _REFUSAL_MAX_BYTES:
                break
        try:
            raise CommandRefused(decode_refused(bytes(raw)))
        except MalformedMessage:
            return UpstreamAnswer(answer.status, _seconds(answer), _once(bytes(raw)))

    async def _chunks(self, answer: aiohttp.ClientResponse) -> AsyncGenerator[bytes]:
        while True:
            with self._translating():
                chunk = await answer.content.readany()
            if not chunk:
                return
            yield chunk

    async def status(self) -> GatewayStatus:
        """Whether the gateway is up, and which instance it is."""
        return decode_status(await self._send("GET", "/health"))

    async def ask_upstream(self) -> UpstreamHealth | None:
        """Whether the model's service answers, asked now; None from a gateway of before."""
        try:
            return decode_upstream(await self._send("GET", "/upstream", timeout_s=_UPSTREAM_S))
        except GatewayUnavailable as error:
            if isinstance(error, CommandRefused):
                raise
            return None

    async def aclose(self) -> None:
        """Close the connections."""
        await self._turns.aclose()
        if self._http is not None:
            await self._http.close()

    async def _ask(self, command: TurnCommand, kind: type[_AnswerT]) -> _AnswerT:
        with self._translating():
            async with asyncio.timeout(self._timeout_s):
                answer = await self._turns.ask(command)
        if isinstance(answer, GatewayRefused):
            raise CommandRefused(answer)
        if not isinstance(answer, kind):
            raise GatewayUnavailable(f"the gateway answered with a {answer.type}")
        return answer

    async def _send(
        self,
        method: str,
        path: str,
        command: Message | None = None,
        *,
        timeout_s: float | None = None,
    ) -> bytes:
        body = command.encode() if command is not None else None
        with self._translating():
            async with (
                asyncio.timeout(timeout_s or self._timeout_s),
                self._session().request(method, _BASE + path, data=body) as answer,
            ):
                raw = await answer.read()
        if answer.status < 300:
            return raw
        raise _refusal(raw, answer.status)

    @contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except (aiohttp.ClientError, OSError, TimeoutError, UnknownMessage) as error:
            told = f"{type(error).__name__} {error}".rstrip()
            raise GatewayUnavailable(f"gateway at {self._socket}: {told}") from error

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


def _seconds(answer: aiohttp.ClientResponse) -> float | None:
    try:
        return max(0.0, float(answer.headers.get("retry-after", "")))
    except ValueError:
        return None


async def _once(raw: bytes) -> AsyncIterator[bytes]:
    yield raw
