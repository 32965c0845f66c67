"""The end of an idle conversation's container: when its time is over, or earlier for the sake of
others.

The store decides in both cases, because it alone knows whether a turn waits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from infra.runtime.logs import fields
from infra.wire.ids import ConversationKey
from infra.wire.states import Hibernation
from worker.conversations.inbox import Inbox
from worker.conversations.phases import Wish
from worker.conversations.recorded_state import RecordedState

log = logging.getLogger(__name__)


class IdleEnd:
    """Asks the store whether one conversation's container may be stopped."""

    def __init__(
        self,
        c: ConversationKey,
        record: RecordedState,
        inbox: Inbox,
        *,
        on_hibernated: Callable[[Hibernation], None],
    ) -> None:
        """`on_hibernated` is called when the store has agreed that the container goes early."""
        self._conversation = c
        self._record = record
        self._inbox = inbox
        self._on_hibernated = on_hibernated
        self._reason = Hibernation.MEMORY

    def want_hibernated(self, reason: Hibernation) -> None:
        """Others need what the container uses. Returns at once."""
        self._reason = reason
        self._inbox.put(Wish.HIBERNATE)

    async def ask_to_reap(self) -> None:
        """Whether the idle deadline has passed."""
        has_agreed = await self._record.reap()
        # Not before: until the answer it counts as one that is being stopped.
        self._inbox.take(Wish.REAP)
        if has_agreed:
            log.info("idle container reaped", extra=fields(conversation=self._conversation))

    async def ask_to_hibernate(self, *, idle_s: float, is_resumable: bool) -> None:
        """Whether no turn wants it. Raises `LeaseLost`.

        `idle_s` and `is_resumable` are for the log: for how long it has been idle, and whether
        another agent can go on with all that this one remembers.
        """
        reason = self._reason
        has_agreed = await self._record.hibernate(reason)
        self._inbox.take(Wish.HIBERNATE)
        if not has_agreed:
            # A turn waits that nobody told us of.
            self._inbox.put(Wish.TURN)
            return
        told = fields(conversation=self._conversation, reason=reason.value, idle_s=round(idle_s))
        if is_resumable:
            log.info("hibernated", extra=told)
        else:
            log.warning("hibernated, its transcript is too large to be resumed from", extra=told)
        self._on_hibernated(reason)
