"""How a worker that leaves gives up its conversations: it hands them over, or ends them.

Each step takes bounded time. Called by `worker.placement.placement.Placement.drain`.
"""

from __future__ import annotations

import logging

from infra.runtime.logs import fields
from infra.store.placement.workers import WorkerRecord
from infra.wire.errors import AgClusterError, StoreUnavailable
from infra.wire.ids import ConversationKey, TurnId, WorkerId
from infra.wire.states import WorkerState
from worker.conversations.actor import Conversation
from worker.hosts.stopping import stop_at_once
from worker.lanes import Members
from worker.parts import WorkerParts

log = logging.getLogger(__name__)

SIBLING_LOOK_EVERY_S = 1.0
STOP_MARGIN_S = 10.0
"""Seconds that stopping a container may take beyond its agent's grace time."""


class Leaving:
    """One worker's departure, with all its conversations."""

    def __init__(
        self, parts: WorkerParts, conversations: Members[ConversationKey, Conversation]
    ) -> None:
        """Nothing may be added to `conversations` from now on."""
        self._parts = parts
        self._conversations = conversations

    async def hand_over(self) -> None:
        """Leave containers and turns to another worker of this host.

        If there is one, at once. Otherwise running turns have the drain time to finish; those that
        still run then are left to the next worker, and the agents keep their events.
        """
        clock = self._parts.clock
        give_up_s = clock.monotonic() + self._parts.cluster.drain_timeout_s
        for actor in self._actors():
            actor.drain()
        while self._conversations and not await self._sibling():
            left_s = give_up_s - clock.monotonic()
            if left_s <= 0:
                break
            await self._conversations.wait_empty(timeout_s=min(SIBLING_LOOK_EVERY_S, left_s))
        turns = [actor.turn for actor in self._actors() if actor.turn]
        for actor in self._actors():
            actor.hand_over()
        await self._all_left(self._parts.timings.hand_over_s)
        if turns and (sibling := await self._sibling()):
            for turn in turns:
                await self._ring(turn, sibling)

    async def retire(self) -> None:
        """Let turns finish, interrupt the rest, and stop every container."""
        ours = [actor.container for actor in self._actors() if actor.container]
        for actor in self._actors():
            actor.retire()
        if not await self._conversations.wait_empty(timeout_s=self._parts.cluster.drain_timeout_s):
            for actor in self._actors():
                actor.interrupt()
            await self._all_left(self._parts.agents.disconnect_grace_s + STOP_MARGIN_S)
        for actor in self._actors():
            log.error("conversation did not end", extra=fields(conversation=actor.key))
            actor.hand_over()
        await self._all_left(self._parts.timings.hand_over_s)
        try:
            await stop_at_once(self._parts.host, ours)
        except AgClusterError as error:
            log.warning("could not stop what is left: %s", error)

    async def _all_left(self, timeout_s: float) -> None:
        if not await self._conversations.wait_empty(timeout_s=timeout_s):
            log.warning("conversations are left", extra=fields(used=len(self._conversations)))

    async def _sibling(self) -> WorkerId | None:
        """Another worker of this host that takes work."""
        try:
            found = await siblings_of(self._parts)
        except StoreUnavailable:
            return None
        return next((w.worker for w in found if w.state is WorkerState.READY), None)

    async def _ring(self, turn: TurnId, sibling: WorkerId) -> None:
        try:
            await self._parts.queue.enqueue(turn, sibling)
        except AgClusterError as error:
            log.warning("could not ring: %s", error)

    def _actors(self) -> list[Conversation]:
        return list(self._conversations.by_key.values())


async def siblings_of(parts: WorkerParts) -> list[WorkerRecord]:
    """The other workers of this host, in any state. Raises `StoreUnavailable`."""
    return [w for w in await parts.registry.of_host(parts.host_id) if w.worker != parts.worker]
