"""Which conversations this worker owns: hints in, actors out (D2).

A hint (an arq job, a sweep, a sibling) names a turn; taking it is milliseconds: find its
conversation, poke the actor if it is ours, else acquire the lease and start one. The turn itself
runs in the actor's task, under the lease.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from infra.runtime.logs import fields
from infra.store.conversations import ConversationRecord
from infra.wire.errors import AgClusterError, LeaseHeld
from infra.wire.ids import ConversationKey, TurnId, WorkerId
from infra.wire.states import ConversationState
from worker.conversation import Conversation, Departure
from worker.hosts import ContainerExit
from worker.ownership import HeldLease
from worker.parts import WorkerParts

log = logging.getLogger(__name__)


class Placement:
    """All conversations of this worker. `run` first; the actors live in its task group."""

    def __init__(
        self, parts: WorkerParts, *, slots: int, on_room: Callable[[], None] = lambda: None
    ) -> None:
        """`on_room` is called whenever a conversation has left or rests."""
        self._parts = parts
        self._slots = slots
        self._on_room = on_room
        self._conversations: dict[ConversationKey, Conversation] = {}
        self._placing: set[ConversationKey] = set()
        self._coming: set[ConversationKey] = set()
        """Those being placed that have their slot already: eight claims run at once."""
        self._group: asyncio.TaskGroup | None = None
        self._running = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._is_closed = False

    @property
    def slots(self) -> int:
        return self._slots

    @property
    def used(self) -> int:
        return len(self._conversations)

    @property
    def conversations(self) -> Mapping[ConversationKey, Conversation]:
        """The actors, by conversation."""
        return self._conversations

    async def run(self) -> None:
        """Hold the actors until cancelled; they then stop where they are."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            self._running.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.close()

    # Hints

    def has_room(self) -> bool:
        """Whether a new conversation could start, if need be in the place of an idle one."""
        if self._is_closed:
            return False
        return self._has_free_slot() or any(
            actor.is_resting for actor in self._conversations.values()
        )

    async def claim(self, turn: TurnId) -> None:
        """The arq job: see that this turn's conversation has an owner that knows of it."""
        record = await self._parts.turns.get(turn)
        if record is None or record.state.is_terminal:
            return
        await self.place(record.conversation, turn, asked_ms=record.created_ms)

    async def place(
        self,
        c: ConversationKey,
        turn: TurnId | None = None,
        *,
        may_exceed: bool = False,
        asked_ms: int | None = None,
    ) -> None:
        """Own the conversation, or tell who does. Raises `StoreUnavailable`.

        `may_exceed`: it has its container already, so it is taken beyond the slots too. Where there
        is no room, nothing happens: the sweepers offer the turn again. A turn asked for just now
        (`asked_ms`) goes to the host that has the conversation's files, if a worker there has room.
        """
        if actor := self._conversations.get(c):
            actor.poke()
            return
        # An actor under way will find the turn: it claims after its lease is acquired.
        if self._is_closed or c in self._placing:
            return
        self._placing.add(c)
        try:
            found = await self._parts.conversations.get(c)
            if (
                turn
                and found
                and asked_ms is not None
                and await self._send_home(found, turn, asked_ms)
            ):
                return
            if not (may_exceed or self._make_room()):
                # Not where its files are here: another host would only send it back.
                if turn and asked_ms is not None and not self._is_home(found):
                    await self._parts.queue.enqueue(turn, None)
                return
            self._coming.add(c)
            held = await self._parts.ownership.acquire(c)
            if self._is_closed:
                state = found.state if found else ConversationState.COLD
                await self._parts.ownership.release(held, state)
                return
            self._begin(held, found)
        except LeaseHeld as held_by:
            if turn is not None:
                await self._parts.queue.enqueue(turn, WorkerId(held_by.owner))
        finally:
            self._placing.discard(c)
            if c in self._coming:
                self._coming.discard(c)
                if c not in self._conversations:
                    self._on_room()

    def turn_waits(self, c: ConversationKey) -> None:
        """A turn has come; if the conversation is not ours any more, the sweepers offer it."""
        if actor := self._conversations.get(c):
            actor.poke()

    def _is_home(self, found: ConversationRecord | None) -> bool:
        return found is not None and found.host == self._parts.host_id

    async def _send_home(self, found: ConversationRecord, turn: TurnId, asked_ms: int) -> bool:
        """Leave the turn to a worker of the host where the conversation's files are.

        Only for a moment: files are worth a detour, but no waiting for a host that is full.
        """
        parts = self._parts
        if found.host in (None, parts.host_id) or not found.turns:
            return False
        if parts.clock.unix_ms() - asked_ms > parts.timings.home_patience_s * 1000:
            return False
        for worker in await parts.registry.alive():
            if worker.host == found.host and worker.state == "ready" and worker.used < worker.slots:
                log.info("sent home", extra=fields(turn=turn, host=found.host))
                await parts.queue.enqueue(turn, worker.worker)
                return True
        return False

    def cancel(self, c: ConversationKey, turn: TurnId) -> None:
        """Somebody wants the turn stopped."""
        if actor := self._conversations.get(c):
            actor.cancel(turn)

    def stop(self, c: ConversationKey, *, is_deleted: bool = False) -> None:
        """An operator or user wants it stopped; or it is deleted, and not ours any more."""
        if actor := self._conversations.get(c):
            log.info("told to stop", extra=fields(conversation=c, deleted=is_deleted or None))
            actor.disown() if is_deleted else actor.stop()

    def container_exited(self, exit: ContainerExit) -> None:
        """A container of this host ended."""
        if actor := self._conversations.get(exit.conversation):
            actor.container_exited(exit)

    def _has_free_slot(self) -> bool:
        return self.used + len(self._coming) < self._slots

    def _make_room(self) -> bool:
        """Room for one more; the longest idle conversation gives its place if there is none.

        Its container goes while the new one comes: for that moment there is one more than slots.
        """
        if self._has_free_slot():
            return True
        resting = [a for a in self._conversations.values() if a.is_resting]
        if not resting:
            return False
        longest = min(resting, key=lambda actor: actor.idle_since_s)
        log.info("making room", extra=fields(conversation=longest.key))
        longest.make_room()
        return True

    # Actors

    def _begin(self, held: HeldLease, found: ConversationRecord | None) -> None:
        assert self._group is not None, "placement is not running"
        actor = Conversation(self._parts, held, found, on_rest=self._on_room)
        self._conversations[actor.key] = actor
        self._empty.clear()
        self._group.create_task(self._supervise(actor, held))

    async def _supervise(self, actor: Conversation, held: HeldLease) -> None:
        departure = Departure.LOST
        try:
            departure = await actor.run()
        except Exception:
            log.exception("conversation failed", extra=fields(conversation=actor.key))
            await self._abandon(held)
        finally:
            del self._conversations[actor.key]
            if not self._conversations:
                self._empty.set()
        log.info("conversation left", extra=fields(conversation=actor.key, why=departure.name))
        self._on_room()
        if departure is Departure.LOST or (departure is Departure.COLD and actor.was_poked):
            await self._take_again(actor.key)
        if actor.left_waiting and actor.key not in self._conversations:
            await self._offer(actor.left_waiting)

    async def _take_again(self, c: ConversationKey) -> None:
        """A lost lease nobody else took, or a turn that came while the actor left."""
        try:
            await self.place(c)
        except AgClusterError as error:
            log.info("left to the sweepers: %s", error, extra=fields(conversation=c))

    async def _offer(self, turn: TurnId) -> None:
        """A turn that only we were told of, to whoever has room."""
        try:
            await self._parts.queue.enqueue(turn, None)
        except AgClusterError as error:
            log.info("left to the sweepers: %s", error, extra=fields(turn=turn))

    async def _abandon(self, held: HeldLease) -> None:
        try:
            await self._parts.ownership.release(held, ConversationState.COLD)
        except AgClusterError as error:
            log.warning("lease left to lapse: %s", error, extra=fields(c=held.conversation))

    # Leaving

    def close(self) -> None:
        """Take no conversation any more."""
        self._is_closed = True

    async def wait_empty(self, *, timeout_s: float) -> bool:
        """Until every conversation has left; False when that takes longer."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    async def wait_running(self) -> None:
        """Until `run` holds the group."""
        await self._running.wait()
