"""Delivers a claimed turn to its agent: starts a container if there is none, decides the memory,
opens the gateway.

There are three courses (`worker.turns.course.Course`): start the turn, continue reading where a
previous owner stopped, or end it because it had begun and its agent is gone. If something fails on
the way, the turn ends, or returns to the queue if nothing can have happened yet. Called by
`worker.conversations.actor`.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

from infra.runtime.logs import fields
from infra.store.turns.turns import ADOPTIONS_MAX, Claimed
from infra.wire.endings import away_end, declared_end
from infra.wire.errors import (
    AgClusterError,
    AgentUnreachable,
    ContainerFailed,
    ErrorCode,
    GatewayUnavailable,
    LeaseLost,
)
from infra.wire.gateway import UpstreamHealth
from infra.wire.link import AgentSettings, Launch
from infra.wire.states import ConversationState, TurnState
from worker.conversations.container.bundle_at_hand import BundleAtHand
from worker.conversations.container.kept_link import KeptLink
from worker.conversations.container.session import HostSession
from worker.conversations.files.files_in import FilesIn
from worker.conversations.recorded_state import RecordedState
from worker.hosts.form import USUAL_FORM
from worker.ownership import HeldLease
from worker.parts import ConversationParts
from worker.turns.agent_settings import agent_settings
from worker.turns.container_form import container_form
from worker.turns.course import Course, course_before_container, course_with_agent
from worker.turns.files.file_bytes import NotDelivered
from worker.turns.memory import Standing, begins_afresh, needs_transcript, stand
from worker.turns.run import TurnRun
from worker.turns.start_timeline import StartPhase, StartTimeline
from worker.waiting import until_store_answers

log = logging.getLogger(__name__)


class UpstreamAway(AgClusterError):
    """The model's service does not answer, so no agent is started."""

    def __init__(self, health: UpstreamHealth) -> None:
        super().__init__(f"{health.host} ({health.cause})")
        self.health = health


class Delivery:
    """Delivers the turns of one conversation."""

    def __init__(
        self,
        parts: ConversationParts,
        held: HeldLease,
        *,
        session: HostSession,
        link: KeptLink,
        record: RecordedState,
    ) -> None:
        self._parts = parts
        self._held = held
        self._session = session
        self._link = link
        self._record = record
        self._files = FilesIn(parts, held)
        self._bundles = BundleAtHand(parts)

    async def deliver(self, run: TurnRun) -> None:
        """Work until the agent has been told of the turn, or the turn's end is decided.

        Raises `LeaseLost`.
        """
        try:
            await self._deliver(run)
        except LeaseLost:
            raise
        except (ContainerFailed, AgentUnreachable) as error:
            log.warning("no agent: %r", error, extra=fields(turn=run.turn))
            run.fail_delivery(error)
        except GatewayUnavailable as error:
            log.error("no gateway: %r", error, extra=fields(turn=run.turn))
            run.fail_delivery(error)
        except Exception as error:
            # A turn's boundary: whatever it is, its client is told, and the next turn runs.
            log.exception("turn failed inside the worker", extra=fields(turn=run.turn))
            run.fail_delivery(error)

    async def _deliver(self, run: TurnRun) -> None:
        if run.claimed.record.adoptions > ADOPTIONS_MAX:
            log.error("turn ended for its owners' deaths", extra=fields(turn=run.turn))
            run.declare(declared_end(ErrorCode.AGENT_FAILED), usable=False)
            return
        if end := await run.spending.begin():
            run.declare(end)
            return
        try:
            course = await self._course(run)
        except UpstreamAway as error:
            log.warning("upstream away: %s", error, extra=fields(turn=run.turn))
            run.declare(away_end(error.health))
            return
        if course is Course.END:
            end = declared_end(ErrorCode.CONTAINER_LOST, state=TurnState.INTERRUPTED)
            run.declare(end, usable=False)
            return
        standing = await self._stand(run.claimed) if course is Course.START else None
        if standing is not None:
            try:
                standing = await self._with_files(run, standing)
            except NotDelivered as error:
                log.info("files not delivered: %s", error, extra=fields(turn=run.turn))
                run.declare(error.end)
                return
        await self._open(run, standing)
        # The machine may have been suspended since the store agreed.
        await self._parts.ownership.make_sure(self._held)
        # The link may have been replaced meanwhile; one that is down is resynchronised when up.
        if (link := self._link.current) is None:
            raise AgentUnreachable("the link was dropped")
        if course is Course.REPLAY:
            run.replay(link)
        elif not self.is_understood(run.claimed):
            raise AgentUnreachable("the agent's version does not know what restricts the turn")
        else:
            run.start(link)

    def is_understood(self, claimed: Claimed) -> bool:
        """Whether our agent knows all that restricts this turn; True if we have none."""
        link = self._link.current
        return link is None or self._settings(claimed).restrictions <= set(link.welcome.knows)

    async def _course(self, run: TurnRun) -> Course:
        """How the turn continues, with its agent reached if it should continue at all."""
        record = run.claimed.record
        if self._session.container is None:
            course = course_before_container(state=record.state, seq=record.seq)
            if course is Course.START:
                # An agent that could only tell that the model's service is away is not started.
                if away := await self._parts.gateway.upstream_away():
                    raise UpstreamAway(away)
                await self._start_container(run)
            return course
        link = await self._link.reach(timeout_s=self._parts.timings.relink_s)
        if not run.claimed.is_adoption:
            return Course.START
        return course_with_agent(turn=run.turn, agent_turn=link.welcome.turn, last_n=run.last_n)

    async def _start_container(self, run: TurnRun) -> None:
        parts = self._parts
        timeline = StartTimeline(parts.clock, run.claimed.record, isolation=parts.host.name)
        run.timeline = timeline
        run.needs_record()
        c, settings = self._held.conversation, self._settings(run.claimed)
        form = container_form(run.claimed.profile)
        if form != USUAL_FORM:
            parts.pool.settle(c)
        elif parts.pool.has_one(c, settings) and await self._start_with_spare(
            run, settings, timeline
        ):
            return
        await parts.starts.begin(c)
        timeline.note(StartPhase.SLOT)
        await self._record.move(ConversationState.STARTING, container=None)
        if form.bundle is not None:
            await self._bundles.bring(form.bundle)
        launch = self._launch(run.claimed)
        await self._session.start(form=form, launch=launch, note=timeline.note)
        if (container := self._session.container) is not None:
            timeline.note_at(StartPhase.CREATED, container.made_ms)
        await self._link.reach(timeout_s=parts.isolation.container_start_timeout_s)
        timeline.note(StartPhase.LINKED)

    def _launch(self, claimed: Claimed) -> bytes | None:
        """For an agent that can start its CLI before it gets the turn: one without a past.

        A CLI asks its MCP servers as soon as it runs, and the gateway lets nobody out before the
        turn is open. One with skills is told of them in its first request.
        """
        settings = self._settings(claimed)
        if not begins_afresh(claimed) or settings.mcp or settings.skills:
            return None
        return Launch(settings=settings).encode()

    def _settings(self, claimed: Claimed) -> AgentSettings:
        return agent_settings(
            claimed.request,
            self._parts.agents,
            self._parts.models,
            profile=claimed.profile,
            logins=claimed.mcp_logins,
        )

    async def _start_with_spare(
        self, run: TurnRun, settings: AgentSettings, timeline: StartTimeline
    ) -> bool:
        """Have a spare do what a start would do; False if there is none, or it does not answer."""
        parts, session = self._parts, self._session
        await self._record.move(ConversationState.STARTING, container=None)
        if (claimed := await session.claim_spare(settings)) is None:
            return False
        timeline.note(StartPhase.CLAIMED_SPARE)
        is_taken = False
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(parts.starts.skip(self._held.conversation))
                group.create_task(self._link.reach(timeout_s=parts.timings.spare_greeting_s))
            is_taken = session.take_spare(claimed)
        except* AgentUnreachable as error:
            log.warning("claimed spare: %r", _first(error), extra=fields(turn=run.turn))
        finally:
            if not is_taken:
                self._link.drop()
                await session.drop_spare(claimed)
        if is_taken:
            timeline.note(StartPhase.LINKED)
        return is_taken

    async def _stand(self, claimed: Claimed) -> Standing:
        """Decide the memory on which the turn is started."""
        session, transcript = needs_transcript(claimed), None
        if session is not None and not self._link.has_session:
            transcripts, c = self._parts.transcripts, self._held.conversation
            transcript = await until_store_answers(
                lambda: transcripts.load(c, session), self._parts.clock
            )
        return stand(
            claimed,
            has_session=self._link.has_session,
            transcript=transcript,
            restores=(link := self._link.current) is not None and link.welcome.restores,
        )

    async def _with_files(self, run: TurnRun, standing: Standing) -> Standing:
        """With the files of its messages in the workspace. Raises `NotDelivered`."""
        delivered = await self._files.deliver(
            run.claimed.request, standing.unheard, with_history=standing.tells_history
        )
        run.tell(delivered.request, notices=delivered.notices)
        return replace(standing, unheard=delivered.unheard)

    async def _open(self, run: TurnRun, standing: Standing | None) -> None:
        """Prepare everything that the agent needs before it may work: the gateway beside the store,
        because the user is waiting. Of a warm turn, the store often knows it all already."""
        container = self._session.container.id if self._session.container else None
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._parts.gateway.open_turn(run.open_request()))
                await self._record.move(ConversationState.BUSY, container=container)
                if standing is not None:
                    await run.put_on(standing)
        except BaseExceptionGroup as group:
            raise _first(group) from None


def _first(group: BaseExceptionGroup) -> BaseException:
    """The first exception of a group that is not a group itself."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
