"""One conversation this worker owns: its container, its link, its turns in order.

An actor: `run` is its task, everything else sets a flag and wakes it. It claims turns until none
waits, keeps the container warm between them, and ends when the container is gone (cold), the lease
is lost, or the conversation is handed over. Cancelled, it just stops, as a killed process would:
the agent keeps its events, and whoever acquires the lease next goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from enum import Enum, auto
from typing import TypeVar

from infra.runtime.logs import fields
from infra.runtime.settings import EgressPolicy
from infra.store.conversations import ConversationRecord
from infra.store.turns import ATTEMPTS_MAX, Claimed
from infra.wire.errors import (
    AgentUnreachable,
    ContainerFailed,
    ErrorCode,
    GatewayUnavailable,
    IllegalTransition,
    LeaseLost,
    StoreUnavailable,
)
from infra.wire.events import TurnEnded
from infra.wire.gateway import AGENT_SOCKET, GatewayFault
from infra.wire.ids import ConversationKey, TurnId
from infra.wire.link import (
    Answer,
    Hello,
    InterruptReason,
    Refused,
    TranscriptAppend,
    TranscriptStored,
)
from infra.wire.states import ConversationState, TurnState
from worker.decisions import (
    Course,
    course_before_container,
    course_with_agent,
    declared_end,
    exit_end,
    steps,
)
from worker.gateway_client import CommandRefused
from worker.hosts import Container, ContainerExit, ContainerId, ContainerSpec, Limits
from worker.link import AgentLink, connect
from worker.memory import Standing, is_resending, needs_transcript, stand
from worker.ownership import HeldLease
from worker.parts import WorkerParts
from worker.transcript_keeper import TranscriptKeeper
from worker.turns import Ending, Phase, TurnRun
from worker.waiting import until_store_answers
from worker.workspace import WorkspaceWatch

log = logging.getLogger(__name__)

_Answer = TypeVar("_Answer")

_UNREADABLE_KEY = declared_end(
    ErrorCode.INVALID_KEY,
    message="The API key of this turn can no longer be read. Please send the message again.",
)


class Departure(Enum):
    """How an actor came to its end."""

    COLD = auto()
    """Nothing waits and no container is left; the lease is released."""
    LOST = auto()
    """The lease is lost; the container was left alone."""
    HANDED_OVER = auto()
    """The lease is released, container and turn left for the next owner."""


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
    ) -> None:
        """`found` is the record as it was before the lease was acquired.

        `on_rest` is called when there is nothing to do, and the container could make room.
        """
        self.key: ConversationKey = held.conversation
        self.idle_since_s = parts.clock.monotonic()
        self.is_resting = False
        """Warm with nothing to do: its container may be taken for another conversation."""
        self.was_poked = True
        """A turn may be waiting: look for it before anything else."""
        self.left_waiting: TurnId | None = None
        """A turn that waited when the lease was released; nobody else was told of it."""
        self._parts = parts
        self._held = held
        self._on_rest = on_rest
        self._state = found.state if found else ConversationState.COLD
        self._had_container = found is not None and self._state is not ConversationState.COLD
        self._container: Container | None = None
        self._early_exit: ContainerExit | None = None
        self._link: AgentLink | None = None
        self._has_session = False
        self._transcripts = TranscriptKeeper(
            parts.transcripts, held.lease, parts.clock, on_stored=self._tell_stored
        )
        self._workspace = WorkspaceWatch(max_bytes=parts.settings.workspace_max_mb * 1024 * 1024)
        self._was_workspace_used = False
        self._linking = asyncio.Lock()
        self._link_lost = asyncio.Event()
        self._run: TurnRun | None = None
        self._cancelled: TurnId | None = None
        self._wake = asyncio.Event()
        self._leave = asyncio.Event()
        self._is_container_lost = False
        self._is_room_wanted = False
        self._is_reap_asked = False
        self._is_retiring = False
        self._is_draining = False

    @property
    def container(self) -> ContainerId | None:
        return self._container.id if self._container else None

    @property
    def turn(self) -> TurnId | None:
        """The turn it works on."""
        return self._run.turn if self._run else None

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
        self._is_reap_asked = True
        self._wake.set()

    def make_room(self) -> None:
        """Stop the container if no turn wants it."""
        self.is_resting = False
        self._is_room_wanted = True
        self._wake.set()

    def stop(self) -> None:
        """Interrupt the running turn, and stop the container if no other turn wants it."""
        if self._run:
            self._run.interrupt(InterruptReason.CANCELLED)
        self.make_room()

    def disown(self) -> None:
        """The conversation is deleted: leave it at once. Whoever takes it next cleans up."""
        self._held.lose()

    def hand_over(self) -> None:
        """Leave everything as it is to another worker, now."""
        self._leave.set()

    def drain(self) -> None:
        """Hand over when the running turn has ended, or now if none runs."""
        self._is_draining = True
        self._wake.set()

    def retire(self) -> None:
        """Stop the container when the running turn has ended, or now if none runs."""
        self._is_retiring = True
        self._wake.set()

    def interrupt(self) -> None:
        """Stop the running turn: the worker shuts down."""
        if self._run:
            self._run.interrupt(InterruptReason.SHUTDOWN)

    def container_exited(self, exit: ContainerExit) -> None:
        """The container ended by itself."""
        if self._container is None:
            self._early_exit = exit
            return
        if self._container.id != exit.id:
            return
        log.warning(
            "container ended",
            extra=fields(
                conversation=self.key, exit_code=exit.exit_code, oom=exit.is_out_of_memory
            ),
        )
        self._lose_container(exit_end(exit))

    # LinkListener

    def on_frame(self, line: bytes) -> None:
        if self._run:
            self._run.on_frame(line)

    def on_answer(self, answer: Answer) -> None:
        if isinstance(answer, TranscriptAppend):
            self._transcripts.take(answer)
        elif isinstance(answer, Refused) and self._run:
            self._run.on_refused(answer)

    def on_link_lost(self) -> None:
        self._link_lost.set()

    # The actor

    async def run(self) -> Departure:
        """Live. Never raises for what can be expected."""
        try:
            departure = await self._live()
        finally:
            self._drop_link()
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
                    group.create_task(self._tend_link()),
                    group.create_task(self._watch_silence()),
                    group.create_task(self._watch_workspace()),
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
        if not await self._recover():
            # Not poked either: the sweeps try again, in their rhythm.
            self.was_poked = False
            await self._go_cold()
            self.left_waiting = None
            return None
        while True:
            self._wake.clear()
            if self._is_draining:
                raise _HandOver
            if claimed := await self._claim_if_any():
                self._is_room_wanted = self._is_reap_asked = False
                await self._run_turn(claimed)
            elif self._container is None:
                return await self._go_cold()
            elif await self._shall_stop():
                await self._discard_container()
            else:
                await self._rest()

    async def _claim_if_any(self) -> Claimed | None:
        """The next turn. Not asked for when the last one's end said that none waits."""
        if self._is_retiring or not self.was_poked:
            return None
        self.was_poked = False
        turns, lease = self._parts.turns, self._held.lease
        claimed = await self._insist(lambda: turns.claim(lease))
        # As the script leaves the record: a claim makes a warm conversation busy.
        if claimed and not claimed.is_adoption and self._state is ConversationState.WARM:
            self._state = ConversationState.BUSY
        elif claimed is None and self._state is ConversationState.BUSY:
            self._state = ConversationState.WARM
        return claimed

    async def _shall_stop(self) -> bool:
        if self._is_room_wanted or self._is_retiring or self._is_container_lost:
            return True
        if not self._is_reap_asked:
            return False
        self._is_reap_asked = False
        won = await self._insist(
            lambda: self._parts.conversations.reap(self.key, self._parts.worker)
        )
        if won:
            log.info("idle container reaped", extra=fields(conversation=self.key))
            self._state = ConversationState.STOPPING
        return won

    async def _rest(self) -> None:
        await self._move(ConversationState.WARM)
        self.idle_since_s = self._parts.clock.monotonic()
        self.is_resting = True
        self._on_rest()
        try:
            await self._wake.wait()
        finally:
            self.is_resting = False

    # A turn

    async def _run_turn(self, claimed: Claimed) -> None:
        run = self._run = TurnRun(self._parts, self._held, claimed)
        self._was_workspace_used = True
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
        self._has_session = is_sure and (self._has_session or run.sdk_session is not None)
        self._run = None
        self._parts.folders.touch(self.key)
        if not ending.is_container_usable:
            await self._discard_container()

    async def _conclude(self, run: TurnRun, ending: Ending) -> None:
        if ending.end is None:
            turns, lease = self._parts.turns, self._held.lease
            if await self._insist(lambda: turns.requeue(lease, run.turn)):
                log.info("turn requeued", extra=fields(turn=run.turn))
                await self._parts.gateway.close_turn(self.key, run.turn)
                self.was_poked = True
                self._note_rest()
                return
            ending = Ending(
                declared_end(ErrorCode.CONTAINER_FAILED),
                is_container_usable=ending.is_container_usable,
            )
        if await run.conclude(ending):
            self.was_poked = True
        self._note_rest()

    def _note_rest(self) -> None:
        # As the scripts leave the record.
        if self._state is ConversationState.BUSY:
            self._state = ConversationState.WARM

    def _fail_start(self, run: TurnRun, end: TurnEnded) -> None:
        """End a turn whose container failed, or start it afresh where nothing can have happened."""
        record = run.claimed.record
        untouched = run.phase is Phase.PREPARING and record.state is TurnState.CLAIMED
        if untouched and record.seq == 0 and record.attempt < ATTEMPTS_MAX:
            run.give_back()
        else:
            run.declare(end, usable=False)

    async def _prepare(self, run: TurnRun) -> None:
        """Get the turn to the agent, starting one if need be; failing, end the turn."""
        try:
            await self._deliver(run)
        except ContainerFailed as error:
            log.warning("no container: %s", error, extra=fields(turn=run.turn))
            self._fail_start(run, declared_end(error.code))
        except AgentUnreachable as error:
            log.warning("no agent: %s", error, extra=fields(turn=run.turn))
            self._fail_start(run, declared_end(ErrorCode.AGENT_FAILED))
        except CommandRefused as error:
            log.error("gateway refused: %s", error, extra=fields(turn=run.turn, fault=error.fault))
            is_key = error.fault is GatewayFault.KEY_NOT_OPENED
            run.declare(_UNREADABLE_KEY if is_key else declared_end(ErrorCode.CONTAINER_FAILED))
        except GatewayUnavailable as error:
            log.error("no gateway: %s", error, extra=fields(turn=run.turn))
            message = "The model gateway of this host does not answer. Please try again."
            run.declare(declared_end(ErrorCode.CONTAINER_FAILED, message=message))
        except (LeaseLost, asyncio.CancelledError):
            raise
        except Exception:
            log.exception("turn failed inside the worker", extra=fields(turn=run.turn))
            run.declare(declared_end(ErrorCode.INTERNAL), usable=False)

    async def _deliver(self, run: TurnRun) -> None:
        record = run.claimed.record
        course = Course.START
        if self._is_container_lost:
            await self._discard_container()
        if self._container is None:
            course = course_before_container(state=record.state, seq=record.seq)
            if course is Course.START:
                await self._start_container()
                await self._linked(timeout_s=self._parts.settings.container_start_timeout_s)
        else:
            found = await self._linked(timeout_s=self._parts.timings.relink_s)
            if run.claimed.is_adoption:
                course = course_with_agent(
                    turn=run.turn, agent_turn=found.welcome.turn, last_n=run.last_n
                )
        if course is Course.END:
            end = declared_end(ErrorCode.CONTAINER_LOST, state=TurnState.INTERRUPTED)
            run.declare(end, usable=False)
            return
        if course is Course.START:
            run.standing = await self._stand(run.claimed)
        await self._open(run)
        # The link may have been replaced meanwhile; one that is down is resynchronised when up.
        if (link := self._link) is None:
            raise AgentUnreachable("the link was dropped")
        if course is Course.REPLAY:
            run.replay(link)
        else:
            run.start(link)

    async def _stand(self, claimed: Claimed) -> Standing:
        """On what memory the turn is to be started."""
        session, transcript = needs_transcript(claimed), None
        if session is not None and not self._has_session:
            transcripts = self._parts.transcripts
            transcript = await self._insist(lambda: transcripts.load(self.key, session))
        return stand(claimed, has_session=self._has_session, transcript=transcript)

    async def _open(self, run: TurnRun) -> None:
        """All that must be true before the agent may work, at once: it is the user's wait."""
        turns, lease, standing = self._parts.turns, self._held.lease, run.standing
        resends = is_resending(run.claimed.request)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._parts.gateway.open_turn(run.open_request()))
                group.create_task(self._move(ConversationState.BUSY))
                if standing and run.claimed.record.state is not TurnState.RUNNING:
                    base = standing.base
                    group.create_task(
                        self._insist(
                            lambda: turns.start(lease, run.turn, base=base, is_resending=resends)
                        )
                    )
        except BaseExceptionGroup as group:
            raise _first(group) from None

    # The container

    async def _recover(self) -> bool:
        """Find what an owner before us left: a container to go on with, or remains to clear.

        False when a deleted conversation's files are still in place: no turn may be served on them.
        """
        conversations, host = self._parts.conversations, self._parts.host_id
        if await self._insist(lambda: conversations.is_wipe_due(self.key, host)):
            return await self._wipe()
        if not self._had_container:
            return True
        try:
            found = [c for c in await self._parts.host.list() if c.conversation == self.key]
        except ContainerFailed as error:
            log.warning("containers not listed: %s", error, extra=fields(conversation=self.key))
            found = []
        self._container = next((c for c in found if c.is_running), None)
        if self._container is None or self._state is ConversationState.STOPPING:
            if found:
                self._container = found[0]
                await self._discard_container()
            return True
        log.info("container adopted", extra=fields(conversation=self.key, id=self.container))
        try:
            sockets = self._parts.folders.of(self.key).sockets
            await self._parts.gateway.open_session(
                self.key, sockets=sockets, fence=self._held.fence
            )
            await self._linked(timeout_s=self._parts.timings.relink_s)
        except GatewayUnavailable as error:
            log.warning("session not registered: %s", error, extra=fields(conversation=self.key))
        except AgentUnreachable as error:
            log.warning("agent not reached: %s", error, extra=fields(conversation=self.key))
            await self._discard_container()
        return True

    async def _wipe(self) -> bool:
        """Remove what this host has of a deleted conversation of this name.

        Under the lease, so that nothing of a new one can be here yet. False when something resists:
        it is tried again with the next sweep.
        """
        parts = self._parts
        try:
            for container in await parts.host.list():
                if container.conversation == self.key:
                    await parts.host.stop(container.id, grace_s=0)
        except ContainerFailed as error:
            log.error("deleted, not stopped: %s", error, extra=fields(conversation=self.key))
            return False
        await parts.gateway.close_session(self.key)
        await asyncio.to_thread(parts.folders.drop_sockets, self.key)
        if not await asyncio.to_thread(parts.folders.drop_workspace, self.key):
            log.error("deleted, but files resist", extra=fields(conversation=self.key))
            return False
        await self._insist(lambda: parts.conversations.wiped(self.key, parts.host_id))
        log.info("files of a deleted conversation removed", extra=fields(conversation=self.key))
        return True

    async def _watch_workspace(self) -> None:
        """Look at the size of the workspace while turns run, and end one that outgrows it."""
        parts, workspace = self._parts, self._parts.folders.of(self.key).workspace
        while True:
            await parts.clock.sleep(parts.timings.workspace_every_s)
            was_used, self._was_workspace_used = self._was_workspace_used, self._run is not None
            if not was_used and self._run is None:
                continue
            size_bytes = await parts.gauge.measure(workspace)
            run = self._run
            if self._workspace.judge(size_bytes, is_running=run is not None) and run:
                log.warning(
                    "workspace too large", extra=fields(turn=run.turn, mb=size_bytes // 1024**2)
                )
                run.declare(declared_end(ErrorCode.WORKSPACE_FULL), usable=False)

    async def _start_container(self) -> None:
        parts, settings = self._parts, self._parts.settings
        await self._move(ConversationState.STARTING)
        folders = await asyncio.to_thread(parts.folders.make, self.key)
        await parts.gateway.open_session(self.key, sockets=folders.sockets, fence=self._held.fence)
        self._has_session = False
        self._early_exit = None
        began_s = parts.clock.monotonic()
        try:
            async with asyncio.timeout(settings.container_start_timeout_s):
                self._container = await parts.host.start(
                    ContainerSpec(
                        conversation=self.key,
                        fence=self._held.fence,
                        folders=folders,
                        limits=Limits(
                            cpus=settings.container_cpus,
                            memory_mb=settings.container_memory_mb,
                            pids=settings.container_pids,
                            tmp_mb=settings.container_tmp_mb,
                        ),
                        egress=settings.egress is not EgressPolicy.NONE,
                    )
                )
        except TimeoutError as error:
            raise ContainerFailed("the container did not start in time") from error
        if (early := self._early_exit) and early.id == self._container.id:
            raise ContainerFailed("the container ended at once", code=exit_end(early).code)
        took_ms = int((parts.clock.monotonic() - began_s) * 1000)
        log.info(
            "container started",
            extra=fields(conversation=self.key, id=self.container, took_ms=took_ms),
        )

    async def _discard_container(self) -> None:
        """Stop what there is and forget it; the conversation is cold then."""
        parts = self._parts
        if self._container is not None:
            await self._transcripts.settled(timeout_s=parts.timings.transcript_grace_s)
        self._drop_link()
        container, self._container = self._container, None
        self._has_session = False
        self._is_room_wanted = self._is_reap_asked = self._is_container_lost = False
        await self._move(ConversationState.STOPPING)
        if container is not None:
            try:
                await parts.host.stop(container.id, grace_s=parts.timings.stop_grace_s)
            except ContainerFailed as error:
                # The reconciler finds it as an orphan, and a next start removes it.
                log.error("container not stopped: %s", error, extra=fields(id=container.id))
        await parts.gateway.close_session(self.key)
        await asyncio.to_thread(parts.folders.drop_sockets, self.key)
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
                self.left_waiting = await self._parts.ownership.release(self._held, self._state)
        except (StoreUnavailable, LeaseLost, TimeoutError) as error:
            log.warning("not handed over: %r", error, extra=fields(conversation=self.key))
            self._parts.ownership.forget(self._held)
        self._parts.gateway.forget(self.key)
        log.info("handed over", extra=fields(conversation=self.key, turn=run and run.turn))

    def _lose_container(self, end: TurnEnded) -> None:
        self._is_container_lost = True
        if self._run:
            self._fail_start(self._run, end)
        self._wake.set()

    # The link

    async def _linked(self, *, timeout_s: float) -> AgentLink:
        """The open link, connected (again) if need be. Raises `AgentUnreachable`.

        An agent that starts takes up to a second until it listens: a failed try costs nothing, so
        there are many.
        """
        async with self._linking:
            if self._link is not None and self._link.is_open:
                return self._link
            timings, clock = self._parts.timings, self._parts.clock
            give_up_s = clock.monotonic() + timeout_s
            pause_s = timings.connect_pause_s
            path = self._parts.folders.of(self.key).sockets / AGENT_SOCKET
            hello = Hello(worker=self._parts.worker, fence=self._held.fence)
            while True:
                try:
                    link = await connect(path, hello, self, clock, timeout_s=timings.greeting_s)
                except AgentUnreachable:
                    if clock.monotonic() + pause_s > give_up_s:
                        raise
                else:
                    self._link = link
                    self._has_session = link.welcome.sdk_session is not None
                    return link
                await clock.sleep(pause_s)
                pause_s = min(pause_s * 1.5, timings.connect_pause_max_s)

    async def _tend_link(self) -> None:
        """Connect again when the link breaks; give the agent up when that does not work."""
        while True:
            await self._link_lost.wait()
            self._link_lost.clear()
            container = self._container
            if container is None:
                continue
            log.info("link lost", extra=fields(conversation=self.key, turn=self.turn))
            try:
                link = await self._linked(timeout_s=self._parts.timings.relink_s)
            except AgentUnreachable as error:
                await self._give_agent_up(container.id, error)
            else:
                # Another container was linked by the turn that started it.
                if self.container == container.id:
                    self._resync(link)

    def _resync(self, link: AgentLink) -> None:
        """Go on with the running turn over a new link."""
        run = self._run
        if run is None or run.phase is not Phase.OPEN:
            return
        course = course_with_agent(turn=run.turn, agent_turn=link.welcome.turn, last_n=run.last_n)
        if course is Course.REPLAY:
            run.replay(link)
        elif course is Course.START and run.standing:
            run.start(link)
        else:
            run.declare(declared_end(ErrorCode.AGENT_FAILED), usable=False)

    async def _give_agent_up(self, container: ContainerId, error: AgentUnreachable) -> None:
        """Only that of the container whose link was lost: the next turn may have a new one."""
        if self.container != container:
            return
        log.error("agent given up: %s", error, extra=fields(conversation=self.key))
        code = ErrorCode.AGENT_FAILED
        try:
            running = [c for c in await self._parts.host.list() if c.is_running]
            if container not in {c.id for c in running}:
                code = ErrorCode.CONTAINER_LOST
        except ContainerFailed as failed:
            log.warning("containers not listed: %s", failed)
        if self.container != container:
            return
        self._lose_container(declared_end(code))

    async def _watch_silence(self) -> None:
        """During a turn, a silent agent must answer a ping, else the link counts as broken."""
        silence_s, clock = self._parts.timings.silence_s, self._parts.clock
        while True:
            await clock.sleep(silence_s / 2)
            link = self._link
            is_watched = self._run is not None and self._run.phase is Phase.OPEN
            if link is None or not link.is_open or link.is_paused or not is_watched:
                continue
            silent_s = clock.monotonic() - link.heard_s
            if silent_s > 2 * silence_s:
                log.warning("agent silent", extra=fields(conversation=self.key))
                link.abort()
            elif silent_s > silence_s:
                link.ping()

    def _tell_stored(self, seq: int) -> None:
        if self._link is not None:
            self._link.send(TranscriptStored(seq=seq))

    def _drop_link(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None
        self._link_lost.clear()

    # The record

    async def _move(self, target: ConversationState) -> None:
        """Bring the record to a state, by legal steps. Raises `LeaseLost`."""
        try:
            await self._step_to(target)
        except IllegalTransition:
            # A script moved it, or a reply was lost: the record says where it is.
            record = await self._insist(lambda: self._parts.conversations.get(self.key))
            self._state = record.state if record else ConversationState.COLD
            await self._step_to(target)

    async def _step_to(self, target: ConversationState) -> None:
        for state in steps(self._state, target):
            await self._insist(lambda state=state: self._update(state))  # type: ignore[misc]
            self._state = state

    async def _update(self, state: ConversationState) -> None:
        await self._parts.conversations.update(
            self._held.lease,
            state,
            container=self.container if state is ConversationState.BUSY else None,
        )

    async def _insist(self, call: Callable[[], Awaitable[_Answer]]) -> _Answer:
        return await until_store_answers(call, self._parts.clock)


def _first(group: BaseExceptionGroup) -> BaseException:
    """The first plain exception of a group."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
