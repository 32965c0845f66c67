"""A client's open answer: the turn that it reads, and what happens when it leaves."""

from __future__ import annotations

import asyncio
import logging
from contextlib import ExitStack
from dataclasses import dataclass

from api.turns.chain import AnswerHead, OpenChain, head_of
from api.turns.deferred import DeferredCalls
from api.turns.following.relay import Relay
from infra.metrics.api import ANSWERS
from infra.runtime.logs import fields
from infra.store.conversations.chains import ChainStore
from infra.store.turns.readers import TurnReaders
from infra.store.turns.turns import TurnStore
from infra.wire.errors import StoreUnavailable
from infra.wire.ids import ConversationKey, ReaderId, TenantId

log = logging.getLogger(__name__)

REMEMBER_S = 1.0
"""Seconds that an answer's last bytes wait at most until the conversation can be found again."""


class OpenAnswer:
    """The answer of a client that has no influence on the turn that it reads.

    `leave()` must be called once, when the answer is complete or the client is gone.
    """

    def __init__(self, relay: Relay, exit: ExitStack) -> None:
        self.id = relay.turn
        self.relay = relay
        self.head: AnswerHead | None = None
        """Gets the answer's text while it is relayed, if anything needs it."""
        self._exit = exit
        self._has_left = False

    async def answered(self) -> None:
        """The answer is complete; its last bytes have not been sent. Never raises."""

    def delivered(self) -> None:
        """The client got the whole answer, including the turn's own end."""

    def leave(self, *, hung_up: bool) -> None:
        """The client no longer reads the answer."""
        if not self._has_left:
            self._has_left = True
            is_complete = self.relay.is_ended
            ANSWERS.labels("complete" if is_complete else "left" if hung_up else "cut").inc()
            self._exit.close()
            self._left(hung_up=hung_up)

    def _left(self, *, hung_up: bool) -> None:
        """What happens when it leaves, once."""


@dataclass(frozen=True)
class Trail:
    """Records how the next request of a client without a conversation name will find this
    conversation."""

    chains: ChainStore
    tenant: TenantId
    conversation: ConversationKey
    chain: OpenChain
    """The chain up to the last user message."""
    lasts: tuple[str, ...]
    """The digests under which that message may come back: its own, and the most likely other
    one."""
    retention_s: float
    begun: str = ""
    """The head of the answer that is continued, because the client shows both as one."""

    async def put(self, head: str) -> None:
        """Raises `StoreUnavailable`."""
        head = head_of(self.begun + head)
        for last in self.lasts:
            await self.chains.put(
                self.tenant,
                self.chain.closed(last, head),
                self.conversation,
                retention_s=self.retention_s,
            )


class OwnAnswer(OpenAnswer):
    """The answer of the client that asked for the turn. If it disconnects, the turn is stopped.

    The turn continues if the client asked for that, or if another client asked for it too, at any
    replica. For a client that retries when it is cut off, it continues for `patience_s` seconds.
    """

    def __init__(
        self,
        relay: Relay,
        exit: ExitStack,
        *,
        tenant: TenantId,
        reader: ReaderId,
        is_repeatable: bool,
        patience_s: float,
        trail: Trail | None,
        turns: TurnStore,
        readers: TurnReaders,
        deferred: DeferredCalls,
    ) -> None:
        super().__init__(relay, exit)
        self.head = None if trail is None else AnswerHead()
        self._tenant = tenant
        self._reader = reader
        self._patience_s = patience_s
        self._is_repeatable = is_repeatable
        self._trail = trail
        self._turns = turns
        self._readers = readers
        self._deferred = deferred

    async def answered(self) -> None:
        """Make sure that the conversation can be found before the client can ask its next
        question."""
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
        """Nobody needs this answer again, except a client that says so."""
        if self._is_repeatable:
            self._deferred.add("delivered", self.id, lambda: self._turns.mark_delivered(self.id))

    def _left(self, *, hung_up: bool) -> None:
        if (trail := self._trail) is not None and (head := self.head) is not None:
            # A client that stopped an answer sends back the part that it got.
            self._deferred.add("remember", self.id, lambda: trail.put(head.text))
        if self.relay.is_ended:
            return
        if self._patience_s and hung_up:
            # It does not count as a reader meanwhile, so that its next try is recognised as one.
            self._deferred.add("leave", self.id, lambda: self._leave(hung_up=False))
            self._deferred.add(
                "hang-up",
                self.id,
                lambda: self._leave(hung_up=True),
                after_s=self._patience_s,
            )
        else:
            what = "hang-up" if hung_up else "leave"
            self._deferred.add(what, self.id, lambda: self._leave(hung_up=hung_up))

    async def _leave(self, *, hung_up: bool) -> None:
        await self._readers.leave(self.id, self._reader, tenant=self._tenant, hung_up=hung_up)
