"""A gateway in memory: what is open at it, and how it fails."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from infra.wire.errors import GatewayUnavailable
from infra.wire.gateway import (
    GatewayFault,
    GatewayRefused,
    GatewayStatus,
    Meters,
    OpenSession,
    OpenTurn,
    SealedKey,
    SealKey,
    SideCall,
    TurnMeter,
    UpstreamHealth,
)
from infra.wire.ids import ConversationKey, Fence, TurnId
from infra.wire.mcp.logins import RenewedLogin, RenewLogin, SealedLogin
from worker.gateway_client.client import CommandRefused, UpstreamAnswer

_instances = itertools.count(1)


def sse(*events: dict[str, Any]) -> bytes:
    """Events as the Messages API streams them."""
    return b"".join(
        f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events
    )


def sse_text(text: str) -> bytes:
    """A text delta."""
    return sse({"type": "content_block_delta", "delta": {"type": "text_delta", "text": text}})


SSE_START = sse({"type": "message_start", "message": {"usage": {"input_tokens": 7}}})
SSE_END = sse(
    {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn"},
        "usage": {"output_tokens": 5},
    },
    {"type": "message_stop"},
)


async def stream_of(*chunks: bytes) -> AsyncIterator[bytes]:
    """An answer's body."""
    for chunk in chunks:
        yield chunk


def echo(call: SideCall) -> UpstreamAnswer:
    """The last text back."""
    said = call.body["messages"][-1]["content"][-1]["text"]
    return UpstreamAnswer(200, None, stream_of(SSE_START, sse_text(said), SSE_END))


class MemoryGateway:
    """A `Gateway` of `worker.gateway_client.registrar`; `meters_of` holds what turns used."""

    def __init__(self) -> None:
        self.sessions: dict[ConversationKey, OpenSession] = {}
        self.turns: dict[ConversationKey, OpenTurn] = {}
        self.meters_of: dict[TurnId, TurnMeter] = {}
        self.opened: list[OpenTurn] = []
        self.closed: list[TurnId] = []
        self.renewed: list[RenewLogin] = []
        self.renews: Callable[[RenewLogin], RenewedLogin] = lambda command: RenewedLogin(
            login=SealedLogin(sealed=f"{command.sealed}+")
        )
        """What the service of a login answers."""
        self.side_calls: list[SideCall] = []
        self.side_hung_up: list[TurnId] = []
        """Side calls whose worker left before it had read them."""
        self.upstream: Callable[[SideCall], UpstreamAnswer] = echo
        """What the upstream answers to side calls."""
        self.is_answering_turns = asyncio.Event()
        """While it is not set, opening a turn takes for ever."""
        self.is_answering_turns.set()
        self.upstream_asks = 0
        self.upstream_health: UpstreamHealth | None = None
        """What it says of the model's service."""
        self.failures = 0
        """So many calls fail from now on; -1: all."""
        self.instance = f"gateway-{next(_instances)}"

    def restart(self) -> None:
        """Forget everything, as a new process does."""
        self.sessions.clear()
        self.turns.clear()
        self.instance = f"gateway-{next(_instances)}"

    async def open_session(
        self, conversation: ConversationKey, request: OpenSession
    ) -> GatewayStatus:
        self._answer()
        self._refuse_stale(conversation, request.fence)
        self.sessions[conversation] = request
        return self._status()

    async def close_session(self, conversation: ConversationKey, fence: Fence) -> None:
        self._answer()
        self._refuse_stale(conversation, fence)
        self.sessions.pop(conversation, None)
        self.turns.pop(conversation, None)

    async def open_turn(self, request: OpenTurn) -> None:
        await self.is_answering_turns.wait()
        self._answer()
        if request.conversation not in self.sessions:
            raise GatewayUnavailable(f"no session {request.conversation}")
        self._refuse_stale(request.conversation, request.fence)
        self.turns[request.conversation] = request
        self.opened.append(request)

    async def close_turn(self, conversation: ConversationKey, turn: TurnId) -> TurnMeter:
        self._answer()
        self.turns.pop(conversation, None)
        self.closed.append(turn)
        return self.meters_of.get(turn, TurnMeter())

    async def seal_key(self, request: SealKey) -> SealedKey:
        self._answer()
        opened = self.turns.get(request.conversation)
        if opened is None or opened.turn != request.turn:
            raise GatewayUnavailable(f"turn {request.turn} is not open")
        return SealedKey(sealed_key="v1.sealed.again", expires_ms=opened.expires_ms)

    async def renew_login(self, command: RenewLogin) -> RenewedLogin:
        self._answer()
        self.renewed.append(command)
        return self.renews(command)

    async def ask_upstream(self) -> UpstreamHealth | None:
        self._answer()
        self.upstream_asks += 1
        return self.upstream_health

    async def meters(self) -> Meters:
        self._answer()
        open_turns = {request.turn for request in self.turns.values()}
        found = {turn: meter for turn, meter in self.meters_of.items() if turn in open_turns}
        return Meters(instance=self.instance, turns=found)

    @asynccontextmanager
    async def complete(self, call: SideCall) -> AsyncIterator[UpstreamAnswer]:
        self._answer()
        self.side_calls.append(call)
        try:
            yield self.upstream(call)
        except BaseException:
            self.side_hung_up.append(call.turn)
            raise

    async def status(self) -> GatewayStatus:
        self._answer()
        return self._status()

    async def aclose(self) -> None:
        """Nothing to let go of."""

    def _status(self) -> GatewayStatus:
        return GatewayStatus(
            instance=self.instance,
            sessions=len(self.sessions),
            turns=len(self.turns),
            upstream=self.upstream_health,
        )

    def _refuse_stale(self, conversation: ConversationKey, fence: Fence) -> None:
        held = self.sessions.get(conversation)
        if held is not None and held.fence > fence:
            raise CommandRefused(
                GatewayRefused(
                    fault=GatewayFault.STALE_FENCE,
                    message="a newer owner has opened it",
                    fence=held.fence,
                )
            )

    def _answer(self) -> None:
        if self.failures:
            self.failures -= 1 if self.failures > 0 else 0
            raise GatewayUnavailable("the fake gateway is told to fail")
