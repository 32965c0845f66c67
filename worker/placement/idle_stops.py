"""Stops this worker's conversations that have rested for long enough, a few at a time.

Each owner watches its own deadlines by its own clock, and hears from the store of those it cannot
know of: of a container it has adopted, or moved by an operator. The store decides in the end.
However many come due at once, no more than `STOPS_AT_ONCE` keep the host busy, for starts need it
too; the next are told as soon as those have gone.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping

from infra.runtime.clock import Clock
from infra.runtime.logs import fields
from infra.wire.ids import ConversationKey
from worker.conversations.actor import Conversation

log = logging.getLogger(__name__)

STOPS_AT_ONCE = 8
"""As many as a Docker host makes calls at once."""
LOOK_AT_LEAST_S, LOOK_AT_MOST_S = 0.5, 1.0
"""Between two looks at our own deadlines, which ask nobody."""
LOOK_AGAIN_S = 0.05
"""While more is due than may stop at once."""


class IdleStops:
    """One worker's."""

    def __init__(
        self,
        conversations: Mapping[ConversationKey, Conversation],
        clock: Clock,
        *,
        longest_s: float,
    ) -> None:
        """`conversations` are the worker's, as they come and go.

        Resting for more than `longest_s` is a missed deadline.
        """
        self._conversations = conversations
        self._clock = clock
        self._longest_s = longest_s
        self._told_due: set[ConversationKey] = set()

    def due(self, c: ConversationKey) -> None:
        """The store says that this one is due."""
        self._told_due.add(c)

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            is_more_due = self.look()
            pause_s = random.uniform(LOOK_AT_LEAST_S, LOOK_AT_MOST_S)
            await self._clock.sleep(LOOK_AGAIN_S if is_more_due else pause_s)

    def look(self) -> bool:
        """Tell as many as may stop now; whether more are due."""
        self._told_due = {c for c in self._told_due if self._still_rests(c)}
        room = STOPS_AT_ONCE - sum(a.is_being_stopped for a in self._conversations.values())
        waiting = [a for a in self._conversations.values() if self._is_due(a)]
        for actor in waiting[: max(room, 0)]:
            self._told_due.discard(actor.key)
            self._stop(actor)
        return len(waiting) > room

    def _still_rests(self, c: ConversationKey) -> bool:
        """A turn makes void what the store has said before it."""
        actor = self._conversations.get(c)
        return actor is not None and actor.turn is None

    def _is_due(self, actor: Conversation) -> bool:
        if actor.is_being_stopped:
            return False
        return actor.key in self._told_due or actor.is_due(self._now_s) or self._is_missed(actor)

    def _stop(self, actor: Conversation) -> None:
        if self._is_missed(actor):
            # The net under the deadlines: whatever the store says.
            log.warning("idle deadline missed", extra=fields(conversation=actor.key))
            actor.make_room()
        else:
            actor.reap()

    def _is_missed(self, actor: Conversation) -> bool:
        return actor.is_resting and self._now_s - actor.idle_since_s > self._longest_s

    @property
    def _now_s(self) -> float:
        return self._clock.monotonic()
