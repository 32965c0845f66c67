"""The actor of a conversation that this worker owns: runs its turns in order, in a container that
stays warm.

`run` is the actor's task; all other methods record a wish and wake it. It claims turns until none
waits, keeps the container between them, and ends when the container is gone (cold), the lease is
lost, or the conversation is handed over. If cancelled, it just stops, like a killed process: the
agent keeps its events, and the lease's next owner continues.

`worker.conversations.next_step` decides what it does next; its phases are
`worker.conversations.phases.ActorPhase`. Its resources on this host are a
`worker.conversations.container.session.HostSession`, it reaches its agent over a
`worker.conversations.container.kept_link.KeptLink`, and a `worker.conversations.delivery.Delivery`
brings turns there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import Any

from infra.runtime.logs import bound, fields
from infra.store.conversations.conversations import ConversationRecord
from infra.store.turns.turns import Claimed
from infra.wire.agents.delegation import AskDelegate
from infra.wire.control import TurnWaits
from infra.wire.endings import declared_end
from infra.wire.errors import (
    AgentUnreachable,
    ErrorCode,
    LeaseLost,
)
from infra.wire.events import TurnEnded
from infra.wire.ids import ConversationKey, TurnId
from infra.wire.link import Hello, InterruptReason, TranscriptStored
from infra.wire.socket_folder import AGENT_SOCKET
from infra.wire.states import ConversationState, Hibernation
from worker.conversations.claims import Claims, TurnNotRead
from worker.conversations.container.idle_end import IdleEnd
from worker.conversations.container.kept_link import KeptLink
from worker.conversations.container.recovery import Recovery
from worker.conversations.container.session import HostSession
from worker.conversations.container.start_boost import StartBoost
from worker.conversations.delegation.called_agents import CalledAgents
from worker.conversations.delivery import Delivery
from worker.conversations.files.files_out import FilesOut
from worker.conversations.files.workspace_guard import WorkspaceGuard
from worker.conversations.inbox import Inbox
from worker.conversations.mcp_logins import LoginsInTurn, TurnLogins
from worker.conversations.next_step import Facts, Left, Step, next_step
from worker.conversations.phases import ACTOR_TRANSITIONS, OF_THE_IDLE, ActorPhase, Departure, Wish
from worker.conversations.recorded_state import RecordedState
from worker.conversations.release import go_cold, hand_over
from worker.conversations.transcript_keeper import TranscriptKeeper
from worker.conversations.turn import see_through
from worker.hosts.host import ContainerExit, ContainerId
from worker.life import Life
from worker.ownership import HeldLease
from worker.parts import ConversationParts
from worker.turns.container_form import container_form
from worker.turns.endings import exit_end
from worker.turns.run import TurnRun

log = logging.getLogger(__name__)


class _HandOver(Exception):
    """Ends the actor's tasks, whatever they are doing."""


class Conversation:
    """The actor. All methods but `run` return at once."""

    def __init__(
        self,
        parts: ConversationParts,
        held: HeldLease,
        found: ConversationRecord | None,
        *,
        on_rest: Callable[[], None] = lambda: None,
        on_hibernated: Callable[[Hibernation], None] = lambda reason: None,
        giving_way: Callable[[], int | None] = lambda: None,
    ) -> None:
        """`found` is the record before the lease was acquired.

        `on_rest` is called when there is nothing to do and the container could make room;
        `on_hibernated` when it is stopped early for the sake of others.
        `giving_way` returns how many conversations give way already; None while there is room.
        """
        self.key: ConversationKey = held.conversation
        self.idle_since_s = parts.clock.monotonic()
        self.gives_way = False
        """It leaves its place to another tenant's, and its next turn to the waiting room."""
        self._parts = parts
        self._held = held
        self._on_rest = on_rest
        self._life = Life(f"actor of {self.key}", ActorPhase.RECOVERING, ACTOR_TRANSITIONS)
        self._record = RecordedState(parts.conversations, held, found, parts.clock)
        self._claims = Claims(parts, held, self._record, giving_way=giving_way)
        self._session = HostSession(
            parts, held, gateway=parts.gateway, conversations=parts.conversations
        )
        self._link = KeptLink(
            parts.folders.of(self.key).sockets / AGENT_SOCKET,
            Hello(worker=parts.worker, fence=held.fence, alone_s=parts.agent_alone_s),
            held,
            self,
            clock=parts.clock,
            timings=parts.timings,
            held_lines=parts.held_lines,
        )
        self._recovery = Recovery(
            parts, self.key, session=self._session, link=self._link, record=self._record
        )
        self._delivery = Delivery(
            parts, held, session=self._session, link=self._link, record=self._record
        )
        self._transcripts = TranscriptKeeper(
            parts.transcripts,
            held.lease,
            parts.clock,
            parts.held_lines,
            is_complete=found is None or not found.is_transcript_full,
            on_stored=self._tell_stored,
        )
        self._workspace = WorkspaceGuard(parts, self.key, self._session, running=lambda: self._run)
        self._boost = StartBoost(parts, container=lambda: self._session.container)
        self._files = FilesOut(parts, held)
        self._called = CalledAgents(parts, held, send=self._link.send)
        self._logins = LoginsInTurn(
            TurnLogins(parts.mcp_logins, parts.gateway, parts.clock),
            parts.gateway,
            parts.clock,
            running=lambda: self._run,
        )
        self._inbox = Inbox()
        self._idle_end = IdleEnd(self.key, self._record, self._inbox, on_hibernated=on_hibernated)
        self._run: TurnRun | None = None
        self._touched_s = -parts.timings.touch_every_s
        self._idle_timeout_s: float | None = None
        """How long it may rest after the turn it ran last; None: it has run none."""

    @property
    def container(self) -> ContainerId | None:
        return self._session.container.id if self._session.container else None

    @property
    def turn(self) -> TurnId | None:
        """The turn that it works on."""
        return self._run.turn if self._run else None

    @property
    def is_resting(self) -> bool:
        """Whether it is warm with nothing to do, so that its container may be stopped for another
        conversation."""
        going = self._inbox.wishes & {Wish.ROOM, Wish.HIBERNATE}
        return self._life.state is ActorPhase.RESTING and not going

    @property
    def is_resumable(self) -> bool:
        """Whether another agent could go on with everything that this one remembers; otherwise it
        would have only what the client sends."""
        return self._transcripts.is_complete

    def is_due(self, now_s: float) -> bool:
        """Whether it has been idle for as long as it may, as far as this worker knows."""
        return (
            self._idle_timeout_s is not None
            and self.is_resting
            and now_s - self.idle_since_s >= self._idle_timeout_s
        )

    @property
    def is_being_stopped(self) -> bool:
        """Whether its container is being stopped, or it was told to ask whether it may be."""
        return self._life.state is ActorPhase.STOPPING or bool(self._inbox.wishes & OF_THE_IDLE)

    # What others tell it

    def poke(self) -> None:
        """A turn may be waiting."""
        self._inbox.put(Wish.TURN)

    def bring(self, waits: TurnWaits) -> None:
        """A turn is waiting, or was begun for us."""
        self._inbox.bring(waits)

    def cancel(self, turn: TurnId) -> None:
        """Somebody wants this turn stopped; other turns are not affected."""
        self._inbox.cancel(turn)
        if self._run and self._run.turn == turn:
            self._run.interrupt(InterruptReason.CANCELLED)

    def reap(self) -> None:
        """The idle deadline has passed: stop the container if the store agrees."""
        self._inbox.put(Wish.REAP)

    def hibernate(self, reason: Hibernation) -> None:
        """Stop the container for the sake of others, if the store agrees that no turn wants it."""
        self._idle_end.want_hibernated(reason)

    def make_room(self) -> None:
        """Stop the container if no turn wants it."""
        self._inbox.put(Wish.ROOM)

    def stop(self) -> None:
        """Interrupt the running turn, and stop the container if no other turn wants it."""
        if self._run:
            self._run.interrupt(InterruptReason.CANCELLED)
        else:
            self._inbox.cancel_begun()
        self.make_room()

    def disown(self) -> None:
        """The conversation was deleted: leave it at once. Its next owner cleans up."""
        self._held.lose()

    def hand_over(self) -> None:
        """Leave everything as it is to another worker, now."""
        self._inbox.put(Wish.LEAVE)

    def drain(self) -> None:
        """Hand over when the running turn has ended, or now if none runs."""
        self._inbox.put(Wish.DRAIN)

    def retire(self) -> None:
        """Stop the container when the running turn has ended, or now if none runs."""
        self._inbox.put(Wish.RETIRE)

    def interrupt(self) -> None:
        """Stop the running turn: the worker shuts down."""
        if self._run:
            self._run.interrupt(InterruptReason.SHUTDOWN)

    def container_exited(self, exit: ContainerExit) -> None:
        """A container of the conversation ended on its own."""
        if not self._session.has_ended(exit):
            return
        told = fields(conversation=self.key, exit_code=exit.exit_code, oom=exit.is_out_of_memory)
        log.warning("container ended", extra=told)
        self._lose_container(exit_end(exit))

    def _lose_container(self, end: TurnEnded) -> None:
        self._session.lose()
        if self._run:
            self._run.fail_start(end)
        self._inbox.ring()

    # LinkUser

    def on_transcript(self, line: bytes) -> None:
        """See `LinkListener`."""
        self._transcripts.take(line, self.container)

    def on_ask(self, ask: AskDelegate) -> None:
        """See `LinkUser`."""
        if self._run is not None:
            self._called.take(self._run, ask)

    def _tell_stored(self, seq: int, container: ContainerId | None) -> None:
        """Confirm to the agent that sent it; another agent process counts anew and has sent
        something else."""
        if container == self.container:
            self._link.send(TranscriptStored(seq=seq))

    async def on_agent_gone(self, container: ContainerId, error: AgentUnreachable) -> None:
        """Give up the agent of the container whose link was lost; the next turn may get a new
        one."""
        if self.container != container:
            return
        log.error("agent given up: %s", error, extra=fields(conversation=self.key))
        has_vanished = await self._session.has_vanished(container)
        if self.container != container:
            return
        code = ErrorCode.CONTAINER_LOST if has_vanished else ErrorCode.AGENT_FAILED
        self._lose_container(declared_end(code))

    # The actor

    async def run(self) -> Left:
        """Run the actor. Raises no expected errors."""
        try:
            left = await self._live()
        finally:
            self._link.drop()
            self._parts.starts.forget(self.key)
        self._life.to(ActorPhase.GONE)
        if left.how is Departure.HANDED_OVER:
            waiting = await hand_over(self._parts, self._held, self._record, self._run)
            left = replace(left, waiting=waiting)
        elif left.how is Departure.LOST:
            self._parts.ownership.forget(self._held)
            self._parts.gateway.forget(self.key)
        return replace(
            left,
            container=None if self._session.is_lost else self._session.container,
            is_turn_wanted=Wish.TURN in self._inbox and not self.gives_way,
        )

    async def _live(self) -> Left:
        try:
            async with asyncio.TaskGroup() as group:
                watchers = [
                    group.create_task(self._held.until_lost()),
                    group.create_task(self._until_told_to_leave()),
                    group.create_task(self._link.tend()),
                    group.create_task(self._link.watch_silence()),
                    group.create_task(self._workspace.watch()),
                    group.create_task(self._transcripts.run()),
                    group.create_task(self._boost.run()),
                    group.create_task(self._files.run()),
                    group.create_task(self._called.run()),
                    group.create_task(self._logins.run()),
                ]
                left = await self._serve()
                for watcher in watchers:
                    watcher.cancel()
        except BaseExceptionGroup as group:
            if group.subgroup(LeaseLost):
                return Left(Departure.LOST)
            if group.split(_HandOver)[1] is not None:
                raise
            return Left(Departure.HANDED_OVER)
        return left

    async def _until_told_to_leave(self) -> None:
        await self._inbox.until(lambda: Wish.LEAVE in self._inbox)
        raise _HandOver

    async def _serve(self) -> Left:
        """Step after step. Returns when the actor should end."""
        if not await self._session.wipe_if_due():
            self._inbox.take(Wish.TURN)
            await go_cold(self._parts, self._held)
            return Left(Departure.COLD, is_put_off=True)
        if not await self._recovery.run():
            await self._discard_container()
        while True:
            self._life.to(ActorPhase.LOOKING)
            match self._next():
                case Step.HAND_OVER:
                    return Left(Departure.HANDED_OVER)
                case Step.GO_COLD:
                    return Left(Departure.COLD, waiting=await go_cold(self._parts, self._held))
                case Step.CLAIM:
                    await self._run_next()
                case Step.ASK_TO_REAP:
                    await self._idle_end.ask_to_reap()
                case Step.ASK_TO_HIBERNATE:
                    idle_s = self._parts.clock.monotonic() - self.idle_since_s
                    await self._idle_end.ask_to_hibernate(
                        idle_s=idle_s, is_resumable=self.is_resumable
                    )
                case Step.STOP:
                    self._life.to(ActorPhase.STOPPING)
                    await self._discard_container()
                case Step.REST:
                    await self._rest()

    def _next(self) -> Step:
        facts = Facts(
            wishes=self._inbox.wishes,
            has_container=self._session.container is not None,
            is_container_lost=self._session.is_lost,
            is_reaped=self._record.state is ConversationState.STOPPING,
            gives_way=self.gives_way,
        )
        return next_step(facts)

    async def _run_next(self) -> None:
        """Run the next turn, if there is one and it does not have to wait for others'."""
        claimed = None
        if begun := self._inbox.take_begun():
            claimed = await self._claims.begun(begun)
        self.gives_way = claimed is None and await self._claims.gives_way()
        if self.gives_way:
            return
        self._inbox.take(Wish.TURN)
        try:
            claimed = claimed or await self._claims.next()
        except TurnNotRead:
            self._inbox.put(Wish.TURN)
            # If an agent has it already, it goes with its container: nobody could follow.
            self._session.lose()
            return
        if claimed is not None:
            if not self._inbox.wants_cancelled(claimed.record.turn):
                self._inbox.forget_idle()
            self._life.to(ActorPhase.RUNNING)
            with bound(turn=claimed.record.turn, conversation=self.key):
                await self._run_turn(claimed)

    async def _rest(self) -> None:
        await self._move(ConversationState.WARM)
        self.idle_since_s = self._parts.clock.monotonic()
        self._life.to(ActorPhase.RESTING)
        self._on_rest()
        await self._inbox.until(lambda: self._next() is not Step.REST)

    # A turn

    async def _run_turn(self, claimed: Claimed) -> None:
        run = self._run = TurnRun(self._parts, self._held, claimed)
        self._idle_timeout_s = claimed.request.idle_timeout_s
        own = claimed.profile.workspace_max_mb if claimed.profile else None
        self._workspace.note_use(own_max_mb=own)
        with self._link.heard_by(run):
            outcome = await see_through(
                run,
                is_cancelled=self._inbox.wants_cancelled(run.turn),
                prepare=partial(self._prepare, run),
                on_spoken=self._end_start,
                keep_files=partial(self._files.keep, run),
            )
        self._record.note_rest()
        if outcome.is_another_waiting:
            self._inbox.put(Wish.TURN)
        elif outcome.is_given_away:
            # Another worker is offered it when the lease is released.
            self._inbox.take(Wish.TURN)
        self._link.note_turn(
            is_remembered=outcome.is_remembered, has_begun=run.sdk_session is not None
        )
        self._run = None
        self._note_use()
        if not outcome.is_container_usable:
            self._life.to(ActorPhase.STOPPING)
            await self._discard_container()

    def _end_start(self) -> Coroutine[Any, Any, None] | None:
        """The agent works, or never will for this turn: let the host start another one."""
        self._boost.over()
        return self._parts.starts.ending(self.key)

    async def _prepare(self, run: TurnRun) -> None:
        form = container_form(run.claimed.profile)
        is_fit = self._session.is_formed(form) and self._delivery.is_understood(run.claimed)
        is_unfit = not run.claimed.is_adoption and not is_fit
        if self._session.is_lost or is_unfit:
            await self._discard_container()
        await self._delivery.deliver(run)
        self._files.begin(self.container)

    def _note_use(self) -> None:
        """Keep its folders from being taken for unused ones, which takes some calls to the disk."""
        now_s = self._parts.clock.monotonic()
        if now_s - self._touched_s >= self._parts.timings.touch_every_s:
            self._touched_s = now_s
            self._parts.folders.touch(self.key)

    # The container's end, and ours

    async def _discard_container(self) -> None:
        """Stop the container and forget it; the conversation is cold then."""
        if self._session.container is not None:
            await self._transcripts.settled(timeout_s=self._parts.timings.transcript_grace_s)
        self._link.drop()
        container = self._session.let_go()
        self._inbox.forget_idle()
        await self._move(ConversationState.STOPPING)
        is_flooding = self._workspace.is_flooding
        has_stopped = await self._session.clear(container, at_once=is_flooding)
        if is_flooding:
            await self._workspace.after_flood(has_stopped=has_stopped)
        await self._move(ConversationState.COLD)

    async def _move(self, target: ConversationState) -> None:
        await self._record.move(target, container=self.container)
