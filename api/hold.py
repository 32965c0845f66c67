"""The hold a client has on a turn: what it reads, and what its leaving means."""

from __future__ import annotations

import asyncio
import logging
from contextlib import ExitStack
from dataclasses import dataclass

from api.chain import AnswerHead, chain
from api.errands import Errands
from api.readers import Readers
from api.relay import Relay
from infra.runtime.logs import fields
from infra.store.chains import ChainStore
from infra.store.turns import TurnStore
from infra.wire.errors import StoreUnavailable
from infra.wire.ids import ConversationKey, TenantId, TurnId
from infra.wire.turns import OnDisconnect

log = logging.getLogger(__name__)

REMEMBER_S = 1.0
"""An answer's last bytes wait at most this long until the conversation can be found again."""


class OpenTurn:
    """A turn as somebody reads it who has no say in it.

    `leave()` must be called once, when the answer is over or the client is.
    """

    def __init__(self, relay: Relay, exit: ExitStack) -> None:
        self.id = relay.turn
        self.relay = relay
        self.head: AnswerHead | None = None
        """To be told the answer's text while it is relayed, where that is wanted."""
        self._exit = exit
        self._has_left = False

    async def answered(self) -> None:
        """The answer is known; its last bytes have not gone out. Never raises."""

    def delivered(self) -> None:
        """The client was handed the whole answer, the turn's own end included."""

    def leave(self, *, hung_up: bool) -> None:
        """Let go."""
        if not self._has_left:
            self._has_left = True
            self._exit.close()
            self._left(hung_up=hung_up)

    def _left(self, *, hung_up: bool) -> None:
        """What leaving means, once."""


@dataclass(frozen=True)
class Trail:
    """How the next request of a client that names no conversation will find this one."""

    chains: ChainStore
    tenant: TenantId
    conversation: ConversationKey
    system_prompt: str | None
    sent: tuple[str, ...]
    retention_s: float

    async def put(self, head: str) -> None:
        """Raises `StoreUnavailable`."""
        await self.chains.put(
            self.tenant,
            chain(self.system_prompt, self.sent, head),
            self.conversation,
            retention_s=self.retention_s,
        )


class HeldTurn(OpenTurn):
    """The turn of who asked for it. A client that hangs up takes it along.

    Unless it asked for the turn to go on, or another client asked for it too, here or elsewhere.
    """

    def __init__(
        self,
        relay: Relay,
        exit: ExitStack,
        *,
        tenant: TenantId,
        policy: OnDisconnect,
        is_repeatable: bool,
        trail: Trail | None,
        turns: TurnStore,
        readers: Readers,
        errands: Errands,
    ) -> None:
        super().__init__(relay, exit)
        self.head = None if trail is None else AnswerHead()
        self._tenant = tenant
        self._policy = policy
        self._is_repeatable = is_repeatable
        self._trail = trail
        self._turns = turns
        self._readers = readers
        self._errands = errands
        readers.came(self.id)

    async def answered(self) -> None:
        """Before the client can ask its next question, the conversation can be found."""
        if self._trail is None or self.head is None:
            return
        try:
            async with asyncio.timeout(REMEMBER_S):
                await self._trail.put(self.head.text)
        except (StoreUnavailable, TimeoutError):
            log.info("conversation to be remembered later", extra=fields(turn=self.id))
        else:
            self._trail = None

    def delivered(self) -> None:
        """Nobody needs this answer again who does not say so."""
        if self._is_repeatable:
            self._errands.leave("delivered", self.id, lambda: self._turns.mark_delivered(self.id))

    def _left(self, *, hung_up: bool) -> None:
        if (trail := self._trail) is not None and (head := self.head) is not None:
            # A client that stopped an answer sends back what it got of it.
            self._errands.leave("remember", self.id, lambda: trail.put(head.text))
        is_last = self._readers.left(self.id)
        if self.relay.is_ended or not is_last or self._policy is not OnDisconnect.CANCEL:
            return
        if hung_up:
            self._errands.leave("hang-up", self.id, self._hang_up)
        elif self._is_repeatable:
            self._errands.leave("leave", self.id, lambda: self._readers.are_left(self.id))

    async def _hang_up(self) -> None:
        await hang_up(self.id, tenant=self._tenant, turns=self._turns, readers=self._readers)


async def hang_up(turn: TurnId, *, tenant: TenantId, turns: TurnStore, readers: Readers) -> None:
    """The last client here has left: cancel the turn if nobody else waits for it.

    Raises `StoreUnavailable` and `TurnNotFound`.
    """
    if not await readers.are_left(turn):
        await turns.cancel(turn, tenant=tenant, reason="the client hung up")
