"""The model's conversations: real leases, scripts and decisions; containers of the model.

It goes the way `worker.placement.placement`, `worker.conversations.actor` and `worker.turns.run`
go, without what does not matter to lease, fence and log: memory, gateway, workspaces. What it does
next, what it takes over and what a failed start means are the real decisions, not copies.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from infra.store.conversations.conversations import ConversationRecord
from infra.store.placement.waiting_room import Elsewhere, Taken
from infra.store.turns.turns import Claimed
from infra.wire.control import TurnWaits
from infra.wire.endings import declared_end
from infra.wire.errors import (
    AgClusterError,
    AgentUnreachable,
    ErrorCode,
    IllegalTransition,
    LeaseHeld,
    LeaseLost,
    StoreUnavailable,
)
from infra.wire.events import TurnEnded, decode_event, encode_event, is_end
from infra.wire.ids import ConversationKey, TurnId, WorkerId
from infra.wire.states import ConversationState, Hibernation, TurnState
from tests.unit.cluster_model.machines import Box, Link
from worker.conversations.next_step import Facts, Step, inherit, next_step
from worker.conversations.phases import OF_THE_IDLE, Wish
from worker.conversations.recorded_state import steps
from worker.hosts.host import ContainerId
from worker.ownership import HeldLease
from worker.placement.sweeping import is_begun
from worker.turns.course import Course, course_before_container, course_with_agent
from worker.turns.log_writer import TurnLogWriter
from worker.turns.phases import RunPhase
from worker.turns.steps import failed_start, first_phase
from worker.waiting import until_store_answers

if TYPE_CHECKING:
    from tests.unit.cluster_model.workers import ModelWorker

_Answer = TypeVar("_Answer")

CANCELLED = TurnEnded(state=TurnState.CANCELLED)
RELINK_S = 10.0
IDLE_S = 15.0


class ContainerDied(Exception):
    """The container did not come up."""


@dataclass
class Run:
    """A claimed turn under way."""

    claimed: Claimed
    last_n: int
    writer: TurnLogWriter
    is_given: bool = False
    ending: TurnEnded | None = None
    payload: bytes | None = None

    @property
    def turn(self) -> TurnId:
        return self.claimed.record.turn

    @property
    def phase(self) -> RunPhase:
        state, is_adoption = self.claimed.record.state, self.claimed.is_adoption
        return RunPhase.OPEN if self.is_given else first_phase(state=state, is_adoption=is_adoption)


class Actor:
    """One conversation a worker owns."""

    def __init__(
        self, worker: ModelWorker, held: HeldLease, found: ConversationRecord | None
    ) -> None:
        self.key: ConversationKey = held.conversation
        self.held = held
        self.is_resting = False
        self.wishes = {Wish.TURN}
        self.idle_since_s = worker.clock.monotonic()
        self.left_waiting: TurnId | None = None
        self._worker = worker
        self._chance: random.Random = worker.chance
        self._state = found.state if found else ConversationState.COLD
        self._box: Box | None = None
        self._link: Link | None = None
        self._cancelled: TurnId | None = None
        self._begun: TurnWaits | None = None
        self._newest_begun = 0
        self._is_discarding = False
        self._hibernation = Hibernation.MEMORY
        self.turn: TurnId | None = None

    @property
    def is_being_stopped(self) -> bool:
        return self._is_discarding or bool(self.wishes & OF_THE_IDLE)

    def is_due(self, now_s: float) -> bool:
        return self.is_resting and now_s - self.idle_since_s >= IDLE_S

    @property
    def container(self) -> ContainerId | None:
        return self._box.id if self._box else None

    def poke(self) -> None:
        self.wishes.add(Wish.TURN)

    def bring(self, waits: TurnWaits) -> None:
        self._begun = waits if waits.begun else self._begun
        self.poke()

    def retire(self) -> None:
        self.wishes.add(Wish.RETIRE)

    def reap(self) -> None:
        self.wishes.add(Wish.REAP)

    def hibernate(self, reason: Hibernation) -> None:
        self._hibernation = reason
        self.wishes.add(Wish.HIBERNATE)

    def make_room(self) -> None:
        self.wishes.add(Wish.ROOM)

    def disown(self) -> None:
        self.held.lose()

    def cancel(self, turn: TurnId) -> None:
        self._cancelled = turn

    def hand_over(self) -> None:
        self.wishes.add(Wish.DRAIN)

    async def live(self) -> None:
        """Until the conversation is cold, lost or handed over."""
        try:
            await self._serve()
        except LeaseLost:
            self._worker.ownership.forget(self.held)

    async def _serve(self) -> None:
        await self._recover()
        while True:
            self._check()
            match self._next():
                case Step.HAND_OVER:
                    return await self._release(self._state)
                case Step.GO_COLD:
                    return await self._release(ConversationState.COLD)
                case Step.CLAIM:
                    await self._run_next()
                case Step.ASK_TO_REAP:
                    await self._ask_to_reap()
                case Step.ASK_TO_HIBERNATE:
                    await self._ask_to_hibernate()
                case Step.STOP:
                    await self._discard()
                case Step.REST:
                    await self._rest()

    def _next(self) -> Step:
        facts = Facts(
            wishes=frozenset(self.wishes),
            has_container=self._box is not None,
            is_container_lost=self._box is not None and self._box.process.is_dead,
            is_reaped=self._state is ConversationState.STOPPING,
        )
        return next_step(facts)

    async def _run_next(self) -> None:
        if claimed := await self._claim():
            self.wishes -= OF_THE_IDLE
            self.turn = claimed.record.turn
            await self._run_logged(claimed)
            self.turn = None

    async def _claim(self) -> Claimed | None:
        self.wishes.discard(Wish.TURN)
        turns, lease = self._worker.turns, self.held.lease
        claimed = await self._begun_for_us() or await self._insist(lambda: turns.claim(lease))
        if claimed:
            self._newest_begun = max(self._newest_begun, claimed.record.begun or 0)
        if claimed and not claimed.is_adoption and self._state is ConversationState.WARM:
            self._state = ConversationState.BUSY
        elif claimed is None and self._state is ConversationState.BUSY:
            self._state = ConversationState.WARM
        return claimed

    async def _ask_to_reap(self) -> None:
        conversations, worker = self._worker.conversations, self._worker.id
        won = await self._insist(lambda: conversations.reap(self.key, worker))
        self.wishes.discard(Wish.REAP)
        if won:
            self._state = ConversationState.STOPPING

    async def _ask_to_hibernate(self) -> None:
        conversations, lease, reason = (
            self._worker.conversations,
            self.held.lease,
            self._hibernation,
        )
        won = await self._insist(lambda: conversations.hibernate(lease, reason))
        self.wishes.discard(Wish.HIBERNATE)
        if won:
            self._state = ConversationState.STOPPING
        else:
            self.wishes.add(Wish.TURN)

    async def _rest(self) -> None:
        await self._move(ConversationState.WARM)
        self.is_resting = True
        self.idle_since_s = self._worker.clock.monotonic()
        while self._next() is Step.REST:
            self._check()
            await self._worker.clock.sleep(0.3)
        self.is_resting = False

    async def _recover(self) -> None:
        machine, conversations = self._worker.machine, self._worker.conversations
        box = machine.of(self.key)
        if box is None:
            return
        self._box = box
        record = await self._insist(lambda: conversations.get(self.key))
        recorded = record.container if record else None
        if not self._worker.rules.adopts_only_the_recorded:
            recorded = box.id
        found = [c for c in machine.list() if c.id == box.id]
        if not inherit(found, recorded=recorded, state=self._state).is_usable:
            return await self._discard()
        try:
            await self._linked()
        except AgentUnreachable:
            await self._discard()

    async def _begun_for_us(self) -> Claimed | None:
        """As `Claims.begun`."""
        waits, self._begun = self._begun, None
        if waits is None or waits.begun is None or waits.begun.fence != self.held.fence:
            return None
        if self._worker.rules.knows_old_messages and waits.begun.serial <= self._newest_begun:
            return None
        return await self._worker.turns.begun(self.key, waits.turn, waits.begun)

    # A turn

    async def _run_logged(self, claimed: Claimed) -> None:
        """Its events are logged by the worker's flusher, together with those of other turns."""
        turn, logs = claimed.record.turn, self._worker.logs
        writer = TurnLogWriter(
            logs, self.held.lease, turn, on_logged=lambda n: self._acknowledge(turn, n)
        )
        logs.join(writer)
        try:
            await self._run(Run(claimed, claimed.record.seq, writer))
        finally:
            logs.leave(writer)

    def _acknowledge(self, turn: TurnId, n: int) -> None:
        if self._link:
            self._link.ack(turn, n)

    async def _run(self, run: Run) -> None:
        is_usable = True
        try:
            await self._deliver(run)
            await self._copy(run)
        except ContainerDied:
            is_usable = False
            ending = failed_start(
                declared_end(ErrorCode.CONTAINER_LOST), phase=run.phase, record=run.claimed.record
            )
            if ending.end is None:
                turns, lease = self._worker.turns, self.held.lease
                if await self._insist(lambda: turns.requeue(lease, run.turn)):
                    self.wishes.add(Wish.TURN)
                    self._note_rest()
                    return await self._discard()
            run.ending = ending.end or declared_end(ErrorCode.CONTAINER_FAILED)
        except AgentUnreachable:
            is_usable = False
            run.ending = declared_end(ErrorCode.AGENT_FAILED)
        await self._conclude(run)
        if not is_usable or self._box is None or self._box.process.is_dead:
            await self._discard()

    async def _deliver(self, run: Run) -> None:
        record, course = run.claimed.record, Course.START
        if self._box is not None and self._box.process.is_dead:
            await self._discard()
        if self._box is None:
            course = course_before_container(state=record.state, seq=record.seq)
            if course is Course.START and not self._is_cancelled(run):
                await self._start_box()
                await self._linked()
        else:
            link = await self._linked()
            if run.claimed.is_adoption:
                course = course_with_agent(
                    turn=run.turn, agent_turn=link.agent_turn, last_n=run.last_n
                )
        if course is Course.END:
            run.ending = declared_end(ErrorCode.CONTAINER_LOST, state=TurnState.INTERRUPTED)
        elif course is Course.START and self._is_cancelled(run):
            run.ending = CANCELLED
        else:
            await self._open(run, course)

    async def _open(self, run: Run, course: Course) -> None:
        worker, lease = self._worker, self.held.lease
        await self._move(ConversationState.BUSY)
        if course is Course.START:
            # One that its submit began goes to its agent without a word, if it only goes on.
            is_said = run.claimed.record.begun is None or self._chance.random() < 0.2
            if run.claimed.record.state is not TurnState.RUNNING and is_said:
                await self._insist(lambda: worker.turns.start(lease, run.turn))
            # A worker that froze here finds out before it starts anything.
            self._check()
            if self._worker.rules.starts_only_when_sure:
                await self._until_sure()
            if self._link is None:
                raise ContainerDied
            self._link.start(run.turn, worker.task_of(run.turn))
        elif self._link is not None:
            self._link.replay(run.turn, after=run.last_n)
        run.is_given = True

    async def _until_sure(self) -> None:
        """As `HeldLease.until_sure`."""
        while not self.held.may_publish():
            self._check()
            await self._worker.clock.sleep(0.1)

    async def _copy(self, run: Run) -> None:
        """The agent's events, live and into the log, until its end or the container's."""
        clock = self._worker.clock
        while run.ending is None:
            self._check_log(run)
            if self._link is not None:
                self._take(run, self._link)
            if Wish.DRAIN in self.wishes:
                self._worker.logs.leave(run.writer)
                with suppress(StoreUnavailable):
                    await run.writer.append_rest()
                self._check()
                await self._release(self._state)
                raise LeaseLost(self.key, self.held.fence)
            if self._box is None or self._box.process.is_dead:
                raise ContainerDied
            if self._link is None or not self._link.is_open:
                link = await self._linked()
                course = course_with_agent(
                    turn=run.turn, agent_turn=link.agent_turn, last_n=run.last_n
                )
                if course is Course.END:
                    raise AgentUnreachable("another agent")
                if course is Course.START:
                    link.start(run.turn, self._worker.task_of(run.turn))
                else:
                    link.replay(run.turn, after=run.last_n)
            assert self._link is not None
            if self._is_cancelled(run):
                self._link.interrupt(run.turn)
            await clock.sleep(self._chance.uniform(0.02, 0.2))

    def _take(self, run: Run, link: Link) -> None:
        for turn, n, payload in link.take():
            if turn != run.turn or n <= run.last_n:
                continue
            assert n == run.last_n + 1, "the agent forgot what was not logged"
            if is_end(payload):
                ended = decode_event(payload)
                assert isinstance(ended, TurnEnded)
                run.ending, run.payload = ended, payload
                return
            run.last_n = n
            self._publish(run, n, payload)
            run.writer.add(n, payload)

    def _publish(self, run: Run, n: int, payload: bytes) -> None:
        if self.held.may_publish():
            self._worker.on_publish(self._worker.id, self.held, run.turn, n, payload)

    def _check_log(self, run: Run) -> None:
        """What the task that logs does: a lost lease ends the turn."""
        self._check()
        if run.writer.failure is not None:
            raise run.writer.failure

    async def _conclude(self, run: Run) -> None:
        worker, lease = self._worker, self.held.lease
        while run.writer.batch():
            self._check_log(run)
            await worker.clock.sleep(self._chance.uniform(0.02, 0.1))
        assert run.ending is not None
        end, n = run.ending, run.last_n + 1
        if await self._insist(
            lambda: worker.turns.finish(lease, run.turn, n, end, idle_timeout_s=IDLE_S)
        ):
            self.wishes.add(Wish.TURN)
        self._note_rest()
        self._publish(run, n, run.payload or encode_event(end))
        if self._link:
            self._link.ack(run.turn, n)

    def _is_cancelled(self, run: Run) -> bool:
        return run.claimed.record.cancel is not None or self._cancelled == run.turn

    def _note_rest(self) -> None:
        if self._state is ConversationState.BUSY:
            self._state = ConversationState.WARM

    # Container and link

    async def _start_box(self) -> None:
        await self._move(ConversationState.STARTING)
        await self._worker.clock.sleep(self._chance.uniform(0.05, 1.0))
        if self._chance.random() < self._worker.bad_starts:
            raise ContainerDied
        self._box = self._worker.machine.start(self.key, self.held.fence)
        await self._worker.clock.sleep(self._chance.uniform(0.05, 0.5))

    async def _linked(self) -> Link:
        if self._link is not None and self._link.is_open:
            return self._link
        clock = self._worker.clock
        give_up_s = clock.monotonic() + RELINK_S
        while True:
            self._check()
            box = self._box
            if box is None or box.process.is_dead:
                raise ContainerDied
            try:
                # By its path: whatever container is there now.
                there = self._worker.machine.of(self.key) or box
                self._link = there.greet(self.held.fence)
            except AgentUnreachable:
                if clock.monotonic() > give_up_s:
                    raise
            else:
                await clock.sleep(0.002)
                return self._link
            await clock.sleep(0.2)

    async def _discard(self) -> None:
        box, self._box, self._link = self._box, None, None
        self.wishes -= OF_THE_IDLE
        self._is_discarding = True
        await self._move(ConversationState.STOPPING)
        if box is not None:
            await self._worker.clock.sleep(self._chance.uniform(0.01, 0.5))
            self._worker.machine.remove(box.id)
        await self._move(ConversationState.COLD)
        self._is_discarding = False

    # The record

    async def _release(self, state: ConversationState) -> None:
        with suppress(StoreUnavailable):
            try:
                self.left_waiting = await self._worker.ownership.release(
                    self.held, state, runs=self.turn
                )
            except IllegalTransition:
                record = await self._insist(lambda: self._worker.conversations.get(self.key))
                state = record.state if record else ConversationState.COLD
                self.left_waiting = await self._worker.ownership.release(
                    self.held, state, runs=self.turn
                )

    async def _move(self, target: ConversationState) -> None:
        try:
            await self._step_to(target)
        except IllegalTransition:
            conversations = self._worker.conversations
            record = await self._insist(lambda: conversations.get(self.key))
            self._state = record.state if record else ConversationState.COLD
            await self._step_to(target)

    async def _step_to(self, target: ConversationState) -> None:
        conversations, lease = self._worker.conversations, self.held.lease
        for state in steps(self._state, target):
            container = self.container if state is ConversationState.BUSY else None
            await self._insist(
                lambda state=state, container=container: conversations.update(  # type: ignore[misc]
                    lease, state, container=container
                )
            )
            self._state = state

    async def _insist(self, call: Callable[[], Awaitable[_Answer]]) -> _Answer:
        answer = await until_store_answers(call, self._worker.clock)
        self._check()
        return answer

    def _check(self) -> None:
        """What the real actor's watcher does: a lost lease ends it wherever it is."""
        if self.held.lost.is_set():
            raise LeaseLost(self.key, self.held.fence)


class Places:
    """As `worker.placement.placement.Placement`: which conversations are ours."""

    def __init__(self, worker: ModelWorker) -> None:
        self.conversations: dict[ConversationKey, Actor] = {}
        self.is_closed = False
        self._worker = worker
        self._placing: set[ConversationKey] = set()

    def _has_closed(self) -> bool:
        """Asked again after an await."""
        return self.is_closed

    async def take(self, hint: TurnId) -> None:
        """A hint of the shared queue: whatever is next."""
        with suppress(AgClusterError):
            match await self._worker.take_next():
                case Taken() as given:
                    await self.place(given.conversation, given.turn)
                case Elsewhere() as given:
                    self._worker.hint(given.turn, given.worker)

    async def claim(self, turn: TurnId) -> None:
        """A hint for this worker."""
        with suppress(AgClusterError):
            record = await self._worker.turns.get(turn)
            if record is None or record.state.is_terminal:
                return
            c = record.conversation
            if is_begun(record.state) and await self._is_elsewhere(c):
                return
            await self.place(c, turn)

    async def _is_elsewhere(self, c: ConversationKey) -> bool:
        found = await self._worker.conversations.get(c)
        return found is not None and found.host not in (None, self._worker.machine.host)

    async def place(
        self, c: ConversationKey, turn: TurnId | None = None, *, may_exceed: bool = False
    ) -> None:
        if actor := self.conversations.get(c):
            return actor.poke()
        if c in self._placing:
            return
        if self.is_closed:
            if turn is not None:
                await self._worker.put_back(turn)
            return
        self._placing.add(c)
        try:
            found = await self._worker.conversations.get(c)
            held = await self._worker.ownership.acquire(c)
            if self._has_closed():
                state = found.state if found else ConversationState.COLD
                if waiting := await self._worker.ownership.release(held, state):
                    self._worker.hint(waiting, None)
                return
            actor = self.conversations[c] = Actor(self._worker, held, found)
            self._worker.spawn(self._supervise(actor))
        except LeaseHeld as held_by:
            if turn is not None:
                self._worker.hint(turn, WorkerId(held_by.owner))
        finally:
            self._placing.discard(c)

    async def _supervise(self, actor: Actor) -> None:
        await actor.live()
        del self.conversations[actor.key]
        if actor.left_waiting:
            self._worker.hint(actor.left_waiting, None)
        elif actor.held.lost.is_set() or Wish.TURN in actor.wishes:
            with suppress(AgClusterError):
                await self.place(actor.key)
