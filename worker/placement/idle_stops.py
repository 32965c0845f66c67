"""Stops this worker's conversations that have been idle for long enough, a few at a time.

Each owner watches its own deadlines by its own clock. The store tells it of deadlines that it
cannot know: of an adopted container, or one that an operator moved. The store makes the final
decision. However many conversations are due at once, at most `STOPS_AT_ONCE` keep the host busy,
because starts need it too; the next ones follow when those are done.
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
"""The number of concurrent calls of a Docker host."""
LOOK_AT_LEAST_S, LOOK_AT_MOST_S = 0.5, 1.0
"""Seconds between two checks of our own deadlines, which need no calls."""
LOOK_AGAIN_S = 0.05
"""Seconds between two checks while more conversations are due than may stop at once."""


class IdleStops:
    """The idle stops of one worker."""

    def __init__(
        self,
        conversations: Mapping[ConversationKey, Conversation],
        clock: Clock,
        *,
        longest_s: float,
    ) -> None:
        """`conversations` are the worker's current conversations.

        A conversation that is idle for more than `longest_s` has missed its deadline.
        """
        self._conversations = conversations
        self._clock = clock
        self._longest_s = longest_s
        self._told_due: set[ConversationKey] = set()

    def due(self, c: ConversationKey) -> None:
        """The store reports that this one is due."""
        self._told_due.add(c)

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            is_more_due = self.look()
            pause_s = random.uniform(LOOK_AT_LEAST_S, LOOK_AT_MOST_S)
            await self._clock.sleep(LOOK_AGAIN_S if is_more_due else pause_s)

    def look(self) -> bool:
        """Tell as many as may stop now. Returns whether more are due."""
        self._told_due = {c for c in self._told_due if self._still_rests(c)}
        room = STOPS_AT_ONCE - sum(a.is_being_stopped for a in self._conversations.values())
        waiting = [a for a in self._conversations.values() if self._is_due(a)]
        for actor in waiting[: max(room, 0)]:
            self._told_due.discard(actor.key)
            self._stop(actor)
        return len(waiting) > max(room, 0)

    def _still_rests(self, c: ConversationKey) -> bool:
        """Whether no turn has arrived since the store's report, which would make it invalid."""
        actor = self._conversations.get(c)
        return actor is not None and actor.turn is None

    def _is_due(self, actor: Conversation) -> bool:
        if actor.is_being_stopped:
            return False
        return actor.key in self._told_due or actor.is_due(self._now_s) or self._is_missed(actor)

    def _stop(self, actor: Conversation) -> None:
        if self._is_missed(actor):
            # The safety net for deadlines, whatever the store says.
            log.warning("idle deadline missed", extra=fields(conversation=actor.key))
            actor.make_room()
        else:
            actor.reap()

    def _is_missed(self, actor: Conversation) -> bool:
        return actor.is_resting and self._now_s - actor.idle_since_s > self._longest_s

    @property
    def _now_s(self) -> float:
        return self._clock.monotonic()
