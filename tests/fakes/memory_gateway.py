"""A gateway in memory: what is open at it, and how it fails."""

from __future__ import annotations

import itertools

from infra.wire.errors import GatewayUnavailable
from infra.wire.gateway import GatewayStatus, OpenSession, OpenTurn, TurnMeter
from infra.wire.ids import ConversationKey, TurnId

_instances = itertools.count(1)


class MemoryGateway:
    """Implements `worker.gateways.Gateway`. `meters` holds what a turn's close will answer."""

    def __init__(self) -> None:
        self.sessions: dict[ConversationKey, OpenSession] = {}
        self.turns: dict[ConversationKey, OpenTurn] = {}
        self.meters: dict[TurnId, TurnMeter] = {}
        self.opened: list[OpenTurn] = []
        self.closed: list[TurnId] = []
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
        self.sessions[conversation] = request
        return self._status()

    async def close_session(self, conversation: ConversationKey) -> None:
        self._answer()
        self.sessions.pop(conversation, None)
        self.turns.pop(conversation, None)

    async def open_turn(self, request: OpenTurn) -> None:
        self._answer()
        if request.conversation not in self.sessions:
            raise GatewayUnavailable(f"no session {request.conversation}")
        self.turns[request.conversation] = request
        self.opened.append(request)

    async def close_turn(self, conversation: ConversationKey, turn: TurnId) -> TurnMeter:
        self._answer()
        self.turns.pop(conversation, None)
        self.closed.append(turn)
        return self.meters.get(turn, TurnMeter())

    async def status(self) -> GatewayStatus:
        self._answer()
        return self._status()

    async def aclose(self) -> None:
        """Nothing to let go of."""

    def _status(self) -> GatewayStatus:
        return GatewayStatus(
            instance=self.instance, sessions=len(self.sessions), turns=len(self.turns)
        )

    def _answer(self) -> None:
        if self.failures:
            self.failures -= 1 if self.failures > 0 else 0
            raise GatewayUnavailable("the fake gateway is told to fail")
