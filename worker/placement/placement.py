"""Decides which conversations this worker owns: turns hints into actors.

A hint for this worker (its own queue, a sweep, a sibling) names a turn. Following it takes
milliseconds: find its conversation, wake its actor if it is ours, otherwise acquire the lease and
start an actor. The turn itself runs in the actor's task, under the lease. A hint of the shared
queue only says that something waits: the waiting room decides what is next, and whether it is for
this worker.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from infra.metrics.worker import CONTAINER_EXITS
from infra.runtime.logs import fields
from infra.store.conversations.conversations import ConversationRecord
from infra.store.placement.waiting_room import Elsewhere, NoRoom, Taken
from infra.wire.control import TurnWaits
from infra.wire.errors import AgClusterError, LeaseHeld
from infra.wire.ids import ConversationKey, TurnId, WorkerId
from infra.wire.states import ConversationState, Hibernation, WorkerState
from worker.conversations.actor import Conversation
from worker.conversations.next_step import Left
from worker.conversations.phases import Departure
from worker.hosts.capacity import IDLE_AGENT_MB, HostMemory
from worker.hosts.host import Container, ContainerExit
from worker.lanes import Members
from worker.ownership import HeldLease
from worker.parts import WorkerParts
from worker.placement.leaving import Leaving
from worker.placement.sweeping import Fate, container_fate, is_begun

log = logging.getLogger(__name__)


class Placement:
    """All conversations of this worker. Start `run` first; the actors live in its task group."""

    def __init__(
        self,
        parts: WorkerParts,
        *,
        slots: int,
        memory: HostMemory,
        on_room: Callable[[], None] = lambda: None,
        on_leftover: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_room` is called whenever a conversation has left or is idle; `on_leftover` if one has
        left a container behind that nobody will continue with."""
        self._parts = parts
        self._slots = slots
        self._memory = memory
        self._on_room = on_room
        self._on_leftover = on_leftover
        self._members: Members[ConversationKey, Conversation] = Members()
        self._placing: set[ConversationKey] = set()
        self._coming: set[ConversationKey] = set()
        """Conversations being placed that already have their slot: eight claims run at once."""
        self._look = asyncio.Event()
        """Set if something may wait that this worker has room for."""
        self._is_something_left = False
        """Whether the waiting room last reported that something waits and nobody has room."""
        self._is_asking = False
        """A slot is reserved while the waiting room is asked what is next."""
        self.hibernated = 0
        """How many containers were stopped early for the sake of others."""

    @property
    def slots(self) -> int:
        return self._slots

    @property
    def used(self) -> int:
        return len(self._members)

    @property
    def running(self) -> int:
        """Conversations that work on a turn."""
        return sum(actor.turn is not None for actor in self.conversations.values())

    @property
    def coming(self) -> int:
        """Conversations that have a slot but have not started here yet."""
        return len(self._coming)

    @property
    def conversations(self) -> Mapping[ConversationKey, Conversation]:
        """The actors, by conversation."""
        return self._members.by_key

    async def run(self) -> None:
        """Run the actors until cancelled; they then stop where they are."""
        await self._members.hold(self._keep_looking())

    # Hints

    def has_room(self) -> bool:
        """Whether a new conversation could start, replacing an idle one if necessary."""
        parts = self._parts
        if self._members.has_closed() or (parts.starts.is_full and not parts.pool.free_spares):
            return False
        return bool(self._free_slots() or self._resting())

    async def take(self, hint: TurnId) -> None:
        """Follow a hint of the shared queue: something waits, whatever turn the hint names."""
        log.debug("hint", extra=fields(hint=hint))
        self.look()

    def look(self) -> None:
        """Ask the waiting room soon what is next, because there is room or something waits."""
        self._look.set()

    def look_if_left(self) -> None:
        """The same, if something was left waiting because there was no room: another worker may
        have it now."""
        if self._is_something_left:
            self.look()

    async def _keep_looking(self) -> None:
        """Workers with room ask, so a hint that nobody could follow does not have to be
        repeated."""
        while True:
            await self._look.wait()
            self._look.clear()
            try:
                await self._place_what_waits()
            except AgClusterError as error:
                log.warning("left to the sweepers: %s", error)
            except Exception:
                # One turn that cannot be placed must not end the worker; the sweeps find it again.
                log.exception("placing failed")

    async def _place_what_waits(self) -> None:
        """Place one turn after the other, while there is room here or elsewhere."""
        while (given := await self._ask()) is not None:
            match given:
                case Taken():
                    await self.place(given.conversation, given.turn)
                case Elsewhere():
                    log.info("given away", extra=fields(turn=given.turn, worker=given.worker))
                    await self._parts.queue.enqueue(given.turn, given.worker)
                case NoRoom():
                    break
        self._is_something_left = given is not None

    async def _ask(self) -> Taken | Elsewhere | NoRoom | None:
        parts = self._parts
        has_room = parts.engine.is_trusted and self.has_room()
        self._is_asking = has_room
        try:
            return await parts.room.take(
                parts.worker,
                parts.host_id,
                home_patience_s=parts.timings.home_patience_s,
                container_mb=IDLE_AGENT_MB,
                has_room=has_room,
                spares=parts.pool.free_spares,
            )
        finally:
            self._is_asking = False

    async def claim(self, turn: TurnId) -> None:
        """Follow a hint for this worker: make sure that the turn's conversation has an owner that
        knows of it.

        A new turn goes to the host that has its conversation's files, if a worker there has room.
        """
        record = await self._parts.turns.get(turn)
        if record is None or record.state.is_terminal:
            return
        c = record.conversation
        if c not in self.conversations and await self._send_home(c, turn):
            return
        # A turn that has begun continues in its container, even beyond the slots, and nowhere else.
        # The sweeps know how long its host may take for that.
        if is_begun(record.state) and await self._is_elsewhere(c):
            return
        await self.place(c, turn, may_exceed=is_begun(record.state))

    async def place(
        self, c: ConversationKey, turn: TurnId | None = None, *, may_exceed: bool = False
    ) -> None:
        """Own the conversation, or tell its owner. Raises `StoreUnavailable`.

        `may_exceed`: it already has its container, so it is taken even beyond the slots. If there
        is no room, the turn waits for another worker.
        """
        if actor := self.conversations.get(c):
            actor.poke()
            return
        # A starting actor will find the turn: it claims after it has acquired its lease.
        if c in self._placing:
            return
        if self._members.has_closed() or not (may_exceed or self._make_room()):
            if turn is not None:
                await self._put_back(turn)
            return
        self._placing.add(c)
        self._coming.add(c)
        self._memory.expect(c)
        self._parts.pool.expect(c)
        try:
            found = await self._parts.conversations.get(c)
            if found is not None and found.container is not None:
                self._parts.pool.settle(c)
            # After a failover Redis may know less than the host, which refuses older fences.
            above = self._parts.folders.last_fence(c)
            held = await self._parts.ownership.acquire(c, above=above)
            if self._members.has_closed():
                await self._give_up(held)
                return
            self._begin(held, found)
        except LeaseHeld as held_by:
            if turn is not None:
                await self._parts.queue.enqueue(turn, WorkerId(held_by.owner))
        finally:
            self._placing.discard(c)
            self._coming.discard(c)
            if c not in self.conversations:
                self._memory.settle(c)
                self._parts.pool.settle(c)
                self._on_room()

    async def _put_back(self, turn: TurnId) -> None:
        """Return a turn that was for us, if we have no room any longer."""
        if await self._parts.room.put_back(turn, self._parts.worker):
            await self._parts.queue.enqueue(turn, None)

    async def _give_up(self, held: HeldLease) -> None:
        """Release what was acquired while we began to leave."""
        record = await self._parts.conversations.get(held.conversation)
        state = record.state if record else ConversationState.COLD
        if waiting := await self._parts.ownership.release(held, state):
            await self._offer(waiting)

    def turn_waits(self, waits: TurnWaits) -> None:
        """A turn has arrived. If the conversation is no longer ours, the sweepers offer the
        turn."""
        if actor := self.conversations.get(waits.conversation):
            actor.bring(waits)

    def poke_all(self) -> None:
        """Wake all actors, because turns may have arrived without a message."""
        for actor in self.conversations.values():
            actor.poke()

    async def _send_home(self, c: ConversationKey, turn: TurnId) -> bool:
        """Leave the turn to a worker of the host that has the conversation's files.

        Only for a moment: files are worth a detour, but not waiting for a full host.
        """
        parts = self._parts
        age_ms = await parts.turns.age_ms(turn)
        if age_ms is None or age_ms > parts.timings.home_patience_s * 1000:
            return False
        found = await parts.conversations.get(c)
        if found is None or found.host in (None, parts.host_id) or not found.turns:
            return False
        for worker in await parts.registry.of_host(found.host):
            if worker.state is WorkerState.READY and worker.has_free_slot:
                log.info("sent home", extra=fields(turn=turn, host=found.host))
                await parts.queue.enqueue(turn, worker.worker)
                return True
        return False

    async def _is_elsewhere(self, c: ConversationKey) -> bool:
        found = await self._parts.conversations.get(c)
        return found is not None and found.host not in (None, self._parts.host_id)

    def cancel(self, c: ConversationKey, turn: TurnId) -> None:
        """Somebody wants the turn stopped."""
        if actor := self.conversations.get(c):
            actor.cancel(turn)

    def stop(self, c: ConversationKey, *, is_deleted: bool = False) -> None:
        """An operator or user wants the conversation stopped; or it was deleted, and is no longer
        ours."""
        if actor := self.conversations.get(c):
            log.info("told to stop", extra=fields(conversation=c, deleted=is_deleted or None))
            actor.disown() if is_deleted else actor.stop()

    def container_exited(self, exit: ContainerExit) -> None:
        """A container of this host ended."""
        CONTAINER_EXITS.labels("out_of_memory" if exit.is_out_of_memory else "ended").inc()
        if actor := self.conversations.get(exit.conversation):
            actor.container_exited(exit)

    def _free_slots(self) -> int:
        """0 while the host is short of memory: then only idle conversations make room."""
        if self._memory.is_short:
            return 0
        return max(0, self._slots - self.used - len(self._coming))

    def _resting(self) -> list[Conversation]:
        return [actor for actor in self.conversations.values() if actor.is_resting]

    def _make_room(self) -> bool:
        """Make room for one more; if there is none, the longest idle conversation is hibernated.

        Its container stops while the new one starts: for that moment there is one more than there
        are slots.
        """
        if self._free_slots() > self._is_asking:
            return True
        resting = self._resting()
        if not resting:
            return False
        first = min(resting, key=lambda actor: (not actor.is_resumable, actor.idle_since_s))
        log.info("making room", extra=fields(conversation=first.key))
        first.hibernate(Hibernation.ROOM)
        return True

    # Actors

    def _begin(self, held: HeldLease, found: ConversationRecord | None) -> None:
        actor = Conversation(
            self._parts,
            held,
            found,
            on_rest=self._note_rest,
            on_hibernated=self._note_hibernated,
            giving_way=self._giving_way,
        )
        self._members.put(actor.key, actor)
        self._members.start(self._supervise(actor, held))

    def _giving_way(self) -> int | None:
        """How many conversations give way to others; None if there is room and none has to.

        A resting conversation is room, unless something waits in spite of it: its client may ask
        again before it could be stopped, each time.
        """
        if self._free_slots() or (self._resting() and not self._is_something_left):
            return None
        return sum(actor.gives_way for actor in self.conversations.values())

    def _note_rest(self) -> None:
        """Idle conversations count as room if there is no other."""
        if not self._free_slots():
            self._on_room()

    def _note_hibernated(self, reason: Hibernation) -> None:
        self.hibernated += 1

    async def _supervise(self, actor: Conversation, held: HeldLease) -> None:
        left = Left(Departure.BROKEN)
        try:
            left = await actor.run()
        except Exception:
            log.exception("conversation failed", extra=fields(conversation=actor.key))
            await self._abandon(held, runs=actor.turn)
        finally:
            self._members.remove(actor.key)
            self._parts.pool.settle(actor.key)
        log.info("conversation left", extra=fields(conversation=actor.key, why=left.how.name))
        if left.makes_room:
            self._on_room()
        if left.is_to_be_taken_again:
            await self._take_again(actor.key, left.container)
        if left.waiting and actor.key not in self.conversations:
            await self._offer(left.waiting)

    async def _take_again(self, c: ConversationKey, left: Container | None) -> None:
        """Take a conversation again whose lost lease nobody else took, or whose turn arrived while
        its actor left."""
        try:
            if left is not None and not await self.restore(left) and await self._is_leftover(left):
                self._on_leftover()
                return
            await self.place(c)
        except AgClusterError as error:
            log.info("left to the sweepers: %s", error, extra=fields(conversation=c))

    async def _is_leftover(self, container: Container) -> bool:
        """Whether the conversation is cold or elsewhere, and does not use this container."""
        parts = self._parts
        record = await parts.conversations.get(container.conversation)
        fate = container_fate(
            container,
            record,
            my_host=parts.host_id,
            is_mine=False,
            mine=None,
            others_alive=frozenset(),
        )
        return fate is Fate.LEFT_BEHIND

    async def restore(self, container: Container) -> bool:
        """Record a live container again if Redis has forgotten it. Returns whether it had.

        Raises `StoreUnavailable`.
        """
        parts = self._parts
        if not container.is_running:
            return False
        is_restored = await parts.conversations.restore(
            container.conversation,
            host=parts.host_id,
            container=container.id,
            fence=container.fence,
            idle_timeout_s=parts.agents.idle_timeout_s,
        )
        if is_restored:
            log.warning(
                "forgotten container put on record",
                extra=fields(conversation=container.conversation, id=container.id),
            )
        return is_restored

    async def _offer(self, turn: TurnId) -> None:
        """Offer a turn that only we were told of to a worker with room."""
        try:
            await self._parts.queue.enqueue(turn, None)
        except AgClusterError as error:
            log.info("left to the sweepers: %s", error, extra=fields(turn=turn))

    async def _abandon(self, held: HeldLease, *, runs: TurnId | None) -> None:
        try:
            await self._parts.ownership.release(held, ConversationState.COLD, runs=runs)
        except AgClusterError as error:
            log.warning("lease left to lapse: %s", error, extra=fields(c=held.conversation))

    # Leaving

    def close(self) -> None:
        """Take no more conversations."""
        self._members.close()

    async def drain(self, *, is_retiring: bool) -> None:
        """See `WorkerLane`: hand all conversations over, or end them."""
        self.close()
        leaving = Leaving(self._parts, self._members)
        await (leaving.retire() if is_retiring else leaving.hand_over())

    async def wait_running(self) -> None:
        """Wait until actors may start."""
        await self._members.wait_running()
