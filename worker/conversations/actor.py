"""One conversation this worker owns: its turns in order, in a container that stays warm.

An actor: `run` is its task, everything else says what is wished and wakes it. It claims turns until
none waits, keeps the container between them, and ends when the container is gone (cold), the lease
is lost, or the conversation is handed over. Cancelled, it just stops, as a killed process would:
the agent keeps its events, and the next owner of the lease goes on.

Its phases are `worker.conversations.phases.ActorPhase`. What it has on this host is a
`worker.conversations.session.Session`, its agent is reached over a
`worker.conversations.kept_link.KeptLink`, and turns get there by a
`worker.conversations.delivery.Delivery`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

from infra.runtime.logs import fields
from infra.store.conversations import ConversationRecord
from infra.store.turns import Claimed
from infra.wire.endings import declared_end
from infra.wire.errors import (
    AgentUnreachable,
    ContainerFailed,
    ContentNotOpened,
    ErrorCode,
    GatewayUnavailable,
    IllegalTransition,
    LeaseLost,
    MalformedMessage,
    StoreUnavailable,
    UnknownMessage,
)
from infra.wire.events import TurnEnded
from infra.wire.ids import ConversationKey, TurnId
from infra.wire.link import Answer, InterruptReason, Refused, TranscriptStored
from infra.wire.states import ConversationState
from worker.conversations.delivery import Delivery
from worker.conversations.kept_link import KeptLink
from worker.conversations.phases import ACTOR_TRANSITIONS, OF_THE_IDLE, ActorPhase, Departure, Wish
from worker.conversations.recorded_state import RecordedState
from worker.conversations.session import Session
from worker.conversations.strays import StrayTurn
from worker.conversations.transcript_keeper import TranscriptKeeper
from worker.conversations.workspace_guard import WorkspaceGuard
from worker.hosts.host import Container, ContainerExit, ContainerId
from worker.life import Life
from worker.ownership import HeldLease
from worker.parts import WorkerParts
from worker.turns.agent_link import AgentLink
from worker.turns.endings import exit_end
from worker.turns.phases import RunPhase
from worker.turns.run import TurnRun
from worker.turns.steps import Ending
from worker.waiting import until_store_answers

log = logging.getLogger(__name__)


class _HandOver(Exception):
    """Ends the actor's tasks in the middle of whatever they do."""


class Conversation:
    """The actor. All methods but `run` return at once."""

    def __init__(
        self,
        parts: WorkerParts,
        held: HeldLease,
        found: ConversationRecord | None,
        *,
        on_rest: Callable[[], None] = lambda: None,
        giving_way: Callable[[], int | None] = lambda: None,
    ) -> None:
        """`found` is the record as it was before the lease was acquired.

        `on_rest` is called when there is nothing to do, and the container could make room.
        `giving_way` says how many conversations give way already; None while there is room.
        """
        self.key: ConversationKey = held.conversation
        self.idle_since_s = parts.clock.monotonic()
        self.was_poked = True
        """A turn may be waiting: look for it before anything else."""
        self.left_waiting: TurnId | None = None
        """A turn that waited when the lease was released; nobody else was told of it."""
        self.is_put_off = False
        """It could not serve what waits: the sweeps try again, in their rhythm."""
        self.gives_way = False
        """It leaves its place to another tenant's, and its next turn to the waiting room."""
        self._parts = parts
        self._held = held
        self._giving_way = giving_way
        self._on_rest = on_rest
        self._life = Life(f"actor of {self.key}", ActorPhase.RECOVERING, ACTOR_TRANSITIONS)
        self._record = RecordedState(parts, held, found)
        self._session = Session(parts, held)
        self._link = KeptLink(parts, held, self)
        self._delivery = Delivery(
            parts, held, session=self._session, link=self._link, record=self._record
        )
        self._transcripts = TranscriptKeeper(
            parts.transcripts,
            held.lease,
            parts.clock,
            parts.held_lines,
            on_stored=self._tell_stored,
        )
        self._workspace = WorkspaceGuard(parts, self.key, self._session, running=lambda: self._run)
        self._run: TurnRun | None = None
        self._stray: StrayTurn | None = None
        self._cancelled: TurnId | None = None
        self._wishes: set[Wish] = set()
        self._is_container_lost = False
        self._has_served = False
        self._idle_timeout_s: float | None = None
        self._wake = asyncio.Event()
        self._leave = asyncio.Event()

    @property
    def container(self) -> ContainerId | None:
        return self._session.container.id if self._session.container else None

    @property
    def left_behind(self) -> Container | None:
        """The container it left as it was, once it has ended."""
        return None if self._is_container_lost else self._session.container

    @property
    def turn(self) -> TurnId | None:
        """The turn it works on."""
        return self._run.turn if self._run else None

    @property
    def is_resting(self) -> bool:
        """Warm with nothing to do: its container may be taken for another conversation."""
        return self._life.state is ActorPhase.RESTING and Wish.ROOM not in self._wishes

    def is_due(self, now_s: float) -> bool:
        """Whether it has rested for as long as it may, as far as this worker knows."""
        return (
            self._idle_timeout_s is not None
            and self.is_resting
            and now_s - self.idle_since_s >= self._idle_timeout_s
        )

    @property
    def is_being_stopped(self) -> bool:
        """Its container goes, or it has been told to ask whether it may."""
        return self._life.state is ActorPhase.STOPPING or bool(self._wishes & OF_THE_IDLE)

    @property
    def is_agent_working(self) -> bool:
        """See `LinkUser`."""
        return self._run is not None and self._run.phase is RunPhase.OPEN

    # What others tell it

    def poke(self) -> None:
        """A turn may be waiting."""
        self.was_poked = True
        self._wake.set()

    def cancel(self, turn: TurnId) -> None:
        """Somebody wants this turn stopped; other turns are not touched."""
        self._cancelled = turn
        if self._run and self._run.turn == turn:
            self._run.interrupt(InterruptReason.CANCELLED)

    def reap(self) -> None:
        """The idle deadline has passed: stop the container if the store agrees."""
        self._wish(Wish.REAP)

    def make_room(self) -> None:
        """Stop the container if no turn wants it."""
        self._wish(Wish.ROOM)

    def stop(self) -> None:
        """Interrupt the running turn, and stop the container if no other turn wants it."""
        if self._run:
            self._run.interrupt(InterruptReason.CANCELLED)
        self.make_room()

    def disown(self) -> None:
        """The conversation is deleted: leave it at once. Its next owner cleans up."""
        self._held.lose()

    def hand_over(self) -> None:
        """Leave everything as it is to another worker, now."""
        self._leave.set()

    def drain(self) -> None:
        """Hand over when the running turn has ended, or now if none runs."""
        self._wish(Wish.DRAIN)

    def retire(self) -> None:
        """Stop the container when the running turn has ended, or now if none runs."""
        self._wish(Wish.RETIRE)

    def interrupt(self) -> None:
        """Stop the running turn: the worker shuts down."""
        if self._run:
            self._run.interrupt(InterruptReason.SHUTDOWN)

    def container_exited(self, exit: ContainerExit) -> None:
        """A container of the conversation ended by itself."""
        if not self._session.has_ended(exit):
            return
        log.warning(
            "container ended",
            extra=fields(
                conversation=self.key, exit_code=exit.exit_code, oom=exit.is_out_of_memory
            ),
        )
        self._lose_container(exit_end(exit))

    def _wish(self, wish: Wish) -> None:
        self._wishes.add(wish)
        self._wake.set()

    # LinkUser

    def on_frame(self, line: bytes) -> None:
        """See `LinkListener`."""
        if self._run:
            self._run.on_frame(line)
        elif self._stray:
            self._stray.on_frame(line)

    def on_answer(self, answer: Answer) -> None:
        """See `LinkListener`."""
        if isinstance(answer, Refused) and (addressed := self._run or self._stray):
            addressed.on_refused(answer)

    def on_transcript(self, line: bytes) -> None:
        """See `LinkListener`."""
        self._transcripts.take(line, self.container)

    def _tell_stored(self, seq: int, container: ContainerId | None) -> None:
        """Answer the agent that said it; the next one counts anew, and has said something else."""
        if container == self.container:
            self._link.send(TranscriptStored(seq=seq))

    def on_relinked(self, link: AgentLink) -> None:
        """Go on with the running turn over a new link."""
        if self._run:
            self._run.on_relinked(link)

    async def on_agent_gone(self, container: ContainerId, error: AgentUnreachable) -> None:
        """Give up that of the container whose link was lost: the next turn may have a new one."""
        if self.container != container:
            return
        log.error("agent given up: %s", error, extra=fields(conversation=self.key))
        has_vanished = await self._session.has_vanished(container)
        if self.container != container:
            return
        code = ErrorCode.CONTAINER_LOST if has_vanished else ErrorCode.AGENT_FAILED
        self._lose_container(declared_end(code))

    # The actor

    async def run(self) -> Departure:
        """Live. Never raises for what can be expected."""
        try:
            departure = await self._live()
        finally:
            self._link.drop()
            self._parts.starts.forget(self.key)
        self._life.to(ActorPhase.GONE)
        if departure is Departure.HANDED_OVER:
            await self._give_away()
        elif departure is Departure.LOST:
            self._parts.ownership.forget(self._held)
            self._parts.gateway.forget(self.key)
        return departure

    async def _live(self) -> Departure:
        try:
            async with asyncio.TaskGroup() as group:
                watchers = [
                    group.create_task(self._until_lost()),
                    group.create_task(self._until_told_to_leave()),
                    group.create_task(self._link.tend()),
                    group.create_task(self._link.watch_silence()),
                    group.create_task(self._workspace.watch()),
                    group.create_task(self._transcripts.run()),
                ]
                await self._serve()
                for watcher in watchers:
                    watcher.cancel()
        except BaseExceptionGroup as group:
            if group.subgroup(LeaseLost):
                return Departure.LOST
            if group.split(_HandOver)[1] is not None:
                raise
            return Departure.HANDED_OVER
        return Departure.COLD

    async def _until_lost(self) -> None:
        await self._held.lost.wait()
        raise LeaseLost(self.key, self._held.fence)

    async def _until_told_to_leave(self) -> None:
        await self._leave.wait()
        raise _HandOver

    async def _serve(self) -> None:
        """Turn after turn; returns when there is neither a turn nor a container."""
        if not await self._session.wipe_if_due():
            self.is_put_off, self.was_poked = True, False
            await self._go_cold()
            self.left_waiting = None
            return None
        await self._recover()
        while True:
            self._life.to(ActorPhase.LOOKING)
            self._wake.clear()
            if Wish.DRAIN in self._wishes:
                raise _HandOver
            if claimed := await self._claim_if_any():
                self._wishes -= OF_THE_IDLE
                self._life.to(ActorPhase.RUNNING)
                await self._run_turn(claimed)
            elif self._session.container is None:
                return await self._go_cold()
            elif await self._shall_stop():
                self._life.to(ActorPhase.STOPPING)
                await self._discard_container()
            else:
                await self._rest()

    async def _recover(self) -> None:
        """Find what an owner before us left: a container to go on with, or remains to clear."""
        if self._record.state is ConversationState.COLD:
            return
        found = await self._session.found()
        # Asked under the lease. One that is not on record was left behind when the conversation
        # moved: it remembers less, and knows nothing of a turn that was started elsewhere.
        record = await self._record.read()
        recorded = record.container if record else None
        running = next((c for c in found if c.is_running and c.id == recorded), None)
        self._session.container = kept = running or next(iter(found), None)
        for other in found:
            if other is not kept:
                await self._session.remove(other)
        if running is None or self._record.state is ConversationState.STOPPING:
            if found:
                await self._discard_container()
            return
        log.info("container adopted", extra=fields(conversation=self.key, id=running.id))
        try:
            await self._session.reopen()
            link = await self._link.reach(timeout_s=self._parts.timings.relink_s)
            if link.welcome.turn and not (record and record.turn == link.welcome.turn):
                await self._end_stray(link, link.welcome.turn)
        except GatewayUnavailable as error:
            log.warning("session not registered: %s", error, extra=fields(conversation=self.key))
        except (AgentUnreachable, ContainerFailed) as error:
            log.warning("agent not reached: %s", error, extra=fields(conversation=self.key))
            await self._discard_container()

    async def _end_stray(self, link: AgentLink, turn: TurnId) -> None:
        """Stop a turn the agent has that is not on record. Raises `AgentUnreachable`."""
        log.warning("stray turn", extra=fields(conversation=self.key, turn=turn))
        await self._parts.gateway.close_turn(self.key, turn)
        self._stray = StrayTurn(turn)
        try:
            await self._stray.end(link, within_s=self._parts.settings.disconnect_grace_s)
        finally:
            self._stray = None

    async def _claim_if_any(self) -> Claimed | None:
        """The next turn. Not asked for when the last one's end said that none waits."""
        if Wish.RETIRE in self._wishes or not self.was_poked or await self._shall_give_way():
            return None
        self.was_poked = False
        turns, lease = self._parts.turns, self._held.lease
        try:
            claimed = await until_store_answers(lambda: turns.claim(lease), self._parts.clock)
        except (ContentNotOpened, MalformedMessage, UnknownMessage) as error:
            log.error("turn not read: %s", error, extra=fields(conversation=self.key))
            if await self._record.end_turn(declared_end(ErrorCode.INTERNAL)):
                self.was_poked = True
                # If an agent has it already, it goes with its container: nobody could follow.
                self._is_container_lost = self._session.container is not None
            return None
        # As the script leaves the record: a claim makes a warm conversation busy.
        if claimed and not claimed.is_adoption:
            self._record.note(ConversationState.WARM, ConversationState.BUSY)
        elif claimed is None:
            self._record.note_rest()
        return claimed

    async def _shall_give_way(self) -> bool:
        """Whether its next turn is to wait for its tenant's turn like those of others.

        Not the one it was placed for.
        """
        giving_way = self._giving_way()
        if self.gives_way or not self._has_served or giving_way is None:
            return self.gives_way
        try:
            self.gives_way = await self._parts.room.gives_way(
                self.key, waited_s=self._parts.timings.give_way_after_s, giving_way=giving_way
            )
        except StoreUnavailable as error:
            log.info("not asked who waits: %s", error, extra=fields(conversation=self.key))
        if self.gives_way:
            log.info("gives way", extra=fields(conversation=self.key))
        return self.gives_way

    async def _shall_stop(self) -> bool:
        if self._is_container_lost or self.gives_way or self._wishes & {Wish.ROOM, Wish.RETIRE}:
            return True
        if Wish.REAP not in self._wishes:
            return False
        self._wishes.discard(Wish.REAP)
        won = await self._record.reap()
        if won:
            log.info("idle container reaped", extra=fields(conversation=self.key))
        return won

    async def _rest(self) -> None:
        await self._move(ConversationState.WARM)
        self.idle_since_s = self._parts.clock.monotonic()
        self._life.to(ActorPhase.RESTING)
        self._on_rest()
        await self._wake.wait()

    # A turn

    async def _run_turn(self, claimed: Claimed) -> None:
        run = self._run = TurnRun(self._parts, self._held, claimed)
        self._has_served = True
        self._idle_timeout_s = claimed.request.idle_timeout_s
        self._workspace.note_use()
        log.info(
            "turn claimed",
            extra=fields(
                turn=run.turn,
                conversation=self.key,
                fence=self._held.fence,
                attempt=claimed.record.attempt,
                adopted=claimed.is_adoption or None,
            ),
        )
        async with asyncio.TaskGroup() as group:
            logging_events = group.create_task(run.log_events())
            watching = group.create_task(run.watch())
            if claimed.record.cancel is not None or self._cancelled == run.turn:
                run.interrupt(InterruptReason.CANCELLED)
            group.create_task(self._end_start(run))
            preparing = group.create_task(self._prepare(run))
            ending = await run.ended()
            watching.cancel()
            preparing.cancel()
            # A start under way cleans up after itself before anything else happens here.
            await asyncio.wait({preparing})
            await self._conclude(run, ending)
            logging_events.cancel()
        # After a turn that failed the agent may have given its session up: it is sent all it needs.
        is_sure = ending.end is not None and ending.end.error is None
        self._link.has_session = is_sure and (self._link.has_session or run.sdk_session is not None)
        self._run = None
        self._parts.folders.touch(self.key)
        if not ending.is_container_usable:
            self._life.to(ActorPhase.STOPPING)
            await self._discard_container()

    async def _conclude(self, run: TurnRun, ending: Ending) -> None:
        if ending.end is None:
            if await self._give_back(run, is_counted=ending.is_counted):
                return
            ending = replace(ending, end=declared_end(ErrorCode.CONTAINER_FAILED))
        if await run.conclude(ending):
            self.was_poked = True
        self._record.note_rest()

    async def _give_back(self, run: TurnRun, *, is_counted: bool) -> bool:
        """Back to the queue with a turn of which nothing has happened; False when it may not."""
        if not await run.requeue(is_counted=is_counted):
            return False
        # This host's engine has failed: another worker is offered it when the lease is released.
        self.was_poked = is_counted
        self._record.note_rest()
        return True

    async def _prepare(self, run: TurnRun) -> None:
        if self._is_container_lost:
            await self._discard_container()
        await self._delivery.deliver(run)

    async def _end_start(self, run: TurnRun) -> None:
        """Let the host start another agent as soon as this one works."""
        await run.spoke.wait()
        await self._parts.starts.end(self.key)

    # The container's end, and ours

    def _lose_container(self, end: TurnEnded) -> None:
        self._is_container_lost = True
        if self._run:
            self._run.fail_start(end)
        self._wake.set()

    async def _discard_container(self) -> None:
        """Stop what there is and forget it; the conversation is cold then."""
        if self._session.container is not None:
            await self._transcripts.settled(timeout_s=self._parts.timings.transcript_grace_s)
        self._link.drop()
        container = self._session.let_go()
        self._link.has_session = False
        self._wishes -= OF_THE_IDLE
        self._is_container_lost = False
        await self._move(ConversationState.STOPPING)
        is_flooding = self._workspace.is_flooding
        has_stopped = await self._session.clear(container, at_once=is_flooding)
        if is_flooding:
            await self._workspace.after_flood(has_stopped=has_stopped)
        await self._move(ConversationState.COLD)

    async def _go_cold(self) -> None:
        try:
            self.left_waiting = await self._parts.ownership.release(
                self._held, ConversationState.COLD
            )
        except StoreUnavailable as error:
            log.warning("lease left to lapse: %s", error, extra=fields(conversation=self.key))

    async def _give_away(self) -> None:
        """Log what waits, release the lease, ring for the next owner. Bounded."""
        run = self._run
        try:
            async with asyncio.timeout(self._parts.timings.hand_over_s):
                if run is not None:
                    await run.append_rest()
                self.left_waiting = await self._released()
        except (StoreUnavailable, LeaseLost, TimeoutError) as error:
            log.warning("not handed over: %r", error, extra=fields(conversation=self.key))
            self._parts.ownership.forget(self._held)
        self._parts.gateway.forget(self.key)
        log.info("handed over", extra=fields(conversation=self.key, turn=run and run.turn))

    async def _released(self) -> TurnId | None:
        """The conversation stays as it is on record. That may be elsewhere than we think: an answer
        was lost, or a script moved it."""
        release = self._parts.ownership.release
        try:
            return await release(self._held, self._record.state)
        except IllegalTransition:
            record = await self._record.read()
            return await release(self._held, record.state if record else ConversationState.COLD)

    async def _move(self, target: ConversationState) -> None:
        await self._record.move(target, container=self.container)
