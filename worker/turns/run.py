"""Runs one turn from its claim to its end: turns the agent's frames into live frames and log
entries.

The link feeds a `TurnRun` line by line, without decoding deltas. The run publishes each frame as it
comes, logs it soon after, and acknowledges logged frames to the agent. Whatever happens first
decides how the turn ends: the agent's own end, a declared one (container lost, deadline, cancel),
or nothing, if the conversation is no longer ours. `worker.turns.steps` decides what follows from
what. It does not start agents or reconnect to them; `worker.conversations.actor` does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

from infra.metrics.worker import REQUEUES
from infra.runtime.logs import fields
from infra.store.turns.turns import Claimed
from infra.wire.endings import declared_end, interrupted_end
from infra.wire.errors import ErrorCode, MalformedMessage
from infra.wire.events import ToolCall, TurnEnded, TurnFiles, TurnStarted, check_event, is_delta
from infra.wire.frames import Frame, decode_frame, frame_head
from infra.wire.gateway import OpenTurn
from infra.wire.ids import TurnId
from infra.wire.link import (
    Ack,
    AgentTimes,
    Interrupt,
    InterruptReason,
    McpServers,
    Refused,
    Replay,
)
from infra.wire.mcp.logins import OpenLogin
from infra.wire.states import TurnState
from infra.wire.text.foreign import foreign
from infra.wire.turns import TurnRequest
from worker.hosts.folders.made import file_time_ns, latest_file_time_ns
from worker.life import Life
from worker.ownership import HeldLease
from worker.parts import TurnParts
from worker.turns.agent_settings import agent_settings, models_of_turn
from worker.turns.course import Course, course_with_agent
from worker.turns.endings import settled_end
from worker.turns.files.sent_files import are_fetched
from worker.turns.limits.answer_length import AnswerLength
from worker.turns.limits.interruption import Interruption
from worker.turns.limits.spending import Spending
from worker.turns.limits.time_limits import TimeLimits
from worker.turns.link.agent_link import AgentLink
from worker.turns.link.client_calls import check_calls
from worker.turns.mcp_servers import missing_notices, servers_outside
from worker.turns.mcp_state import note_servers
from worker.turns.memory import Standing, begun_base, is_resending
from worker.turns.output import TurnOutput
from worker.turns.phases import RUN_TRANSITIONS, RunPhase
from worker.turns.start_timeline import StartPhase, StartTimeline
from worker.turns.steps import (
    Ending,
    Gap,
    Heard,
    Stop,
    agents_ending,
    declared_ending,
    failed_delivery,
    failed_start,
    first_phase,
    hear,
    memory_after,
    refused_ending,
    stop_in,
)
from worker.waiting import until_store_answers

log = logging.getLogger(__name__)

SAID_MAX_BYTES = 32 * 1024 * 1024
"""Maximum bytes of a turn's events. The longest honest turn takes 20 MB. Redis keeps them until an
hour after its end, and an agent that replaced its server could fill Redis for everybody."""


class TurnRun:
    """The run of one claimed turn."""

    def __init__(self, parts: TurnParts, held: HeldLease, claimed: Claimed) -> None:
        self.claimed = claimed
        self._on_spoken: Callable[[], None] | None = None
        self.turn: TurnId = claimed.record.turn
        self.sdk_session: str | None = None
        self.timeline: StartTimeline | None = None
        """How its agent starts; None if it runs already, and once the line is logged."""
        self._limits = TimeLimits(
            parts.clock,
            grace_s=parts.agents.disconnect_grace_s,
            on_deadline=partial(self.interrupt, InterruptReason.DEADLINE),
            on_grace_over=self._give_up,
            on_overrun_over=partial(self.interrupt, InterruptReason.CANCELLED),
        )
        self.spending = Spending(
            parts,
            held,
            claimed.record,
            is_taken_over=claimed.is_adoption,
            agent_budget_tokens=claimed.profile.turn_budget_tokens if claimed.profile else None,
            callers_budget_tokens=_callers_budget(claimed.request),
            may_lend=claimed.profile is not None and bool(claimed.profile.delegates),
            on_overrun=self._limits.overrun,
        )
        first = first_phase(state=claimed.record.state, is_adoption=claimed.is_adoption)
        self._life = Life(f"run of {self.turn}", first, RUN_TRANSITIONS)
        self._parts = parts
        self._held = held
        self._since_s = parts.clock.monotonic()
        self._standing: Standing | None = None
        self._told = claimed.request
        self._notices: tuple[str, ...] = ()
        self._servers: McpServers | None = None
        self.has_used_tools = claimed.is_adoption
        """Whether its agent may have changed files."""
        self.told_ns: int | None = None
        """When its agent was first told of it here, by the time of files."""
        self.fetched_ns: int | None = None
        """When its agent had fetched what the messages name by URL: it begins only then."""
        self._begun_base = begun_base(claimed)
        """Its base, unless one is on record."""
        self._link: AgentLink | None = None
        self._stop = Interruption()
        self._ending: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._head = frame_head(self.turn, held.fence)
        self._said_bytes = claimed.record.said_bytes
        self._gap = Gap()
        self._has_delta = claimed.record.seq > 0
        self._length = AnswerLength(claimed.request.turn_options.max_tokens)
        self._output = TurnOutput(
            parts,
            held,
            claimed.record,
            on_logged=self._acknowledge,
            on_broken=self._break_log,
        )

    @property
    def phase(self) -> RunPhase:
        return self._life.state

    @property
    def left_s(self) -> float:
        """Seconds until its deadline."""
        return self.claimed.left_s - (self._parts.clock.monotonic() - self._since_s)

    @property
    def waited_s(self) -> float:
        """Seconds from its request to its claim here, as far as the clocks of Redis and this
        machine agree."""
        run_s = self._parts.clock.monotonic() - self._since_s
        asked_s = self.claimed.record.created_ms / 1000
        return max(0.0, self._parts.clock.unix_ms() / 1000 - run_s - asked_s)

    @property
    def last_n(self) -> int:
        """The newest received number; after an adoption, the newest logged one."""
        return self._output.n

    @property
    def is_agent_working(self) -> bool:
        """Whether its agent may be working on it."""
        return self.phase is RunPhase.OPEN

    # Towards the agent

    def open_request(self) -> OpenTurn:
        """What the gateway needs to know about the turn."""
        record, profile = self.claimed.record, self.claimed.profile
        return OpenTurn(
            turn=self.turn,
            tenant=record.tenant,
            conversation=record.conversation,
            fence=self._held.fence,
            sealed_key=record.sealed_key or "",
            expires_ms=record.key_expires_ms,
            models=models_of_turn(
                self.claimed.request, self._parts.models, profile=self.claimed.profile
            ),
            budget_tokens=self.spending.budget_tokens,
            options=self.claimed.request.options,
            mcp_servers=servers_outside(profile),
            mcp_logins=self.claimed.mcp_logins,
            turn_options=self.claimed.request.turn_options.for_gateway,
        )

    def take_logins(self, logins: Mapping[str, OpenLogin]) -> bool:
        """These have taken the place of its logins at MCP servers. Returns whether the gateway has
        to be told: not of those that it has, and not of a turn without an agent at work."""
        together = {**self.claimed.mcp_logins, **logins}
        if not self.is_agent_working or together == self.claimed.mcp_logins:
            return False
        self.claimed = replace(self.claimed, mcp_logins=together)
        return True

    async def put_on(self, standing: Standing) -> None:
        """Record the memory that the turn continues, before its agent hears of it: from then on
        tools may have run.

        Keeps trying while Redis is unavailable. Raises `LeaseLost`.
        """
        self._standing = standing
        if self._has_base_on_record():
            return
        turns, lease, request = self._parts.turns, self._held.lease, self.claimed.request
        if standing.base == self._begun_base and (
            self.claimed.is_resending or not is_resending(request)
        ):
            return
        self._begun_base = None
        await until_store_answers(
            lambda: turns.start(
                lease, self.turn, base=standing.base, is_resending=is_resending(request)
            ),
            self._parts.clock,
        )

    def tell(self, request: TurnRequest, *, notices: tuple[str, ...]) -> None:
        """What its agent is told in place of the claimed request, which names files that are in its
        workspace now."""
        self._told = request
        self._notices = notices

    def needs_record(self) -> None:
        """It gets a new agent. Then the store takes a begun turn for one that nobody has heard of
        again, so its memory has to be on record before the agent hears of it."""
        self._begun_base = None

    def _has_base_on_record(self) -> bool:
        record = self.claimed.record
        is_begun = record.begun is not None and record.base is None
        return record.state is TurnState.RUNNING and (record.seq > 0 or not is_begun)

    def start(self, link: AgentLink) -> None:
        """Send the turn to the agent; again after a reconnect, if the agent reports that it never
        got it.

        A turn that has ended meanwhile is not sent.
        """
        assert self._standing is not None, "a turn starts on a memory"
        if not self._opened(link):
            return
        request = self._told
        settings = agent_settings(
            request,
            self._parts.agents,
            self._parts.models,
            profile=self.claimed.profile,
            logins=self.claimed.mcp_logins,
        )
        if self.told_ns is None:
            self.told_ns = file_time_ns()
            self.fetched_ns = latest_file_time_ns()
        missing = missing_notices(
            self.claimed.profile, request.turn_options.mcp_secrets, self.claimed.mcp_logins
        )
        notices = (*self._notices, *missing)
        link.send_line(self._standing.start_line(request, settings, notices=notices))
        if self.timeline is not None:
            self.timeline.is_resumed = self._standing.transcript is not None
            self.timeline.note(StartPhase.TOLD)
        self._tell_to_stop()

    def replay(self, link: AgentLink) -> None:
        """Continue reading after the last event seen; the agent already has the turn."""
        if not self._opened(link):
            return
        link.send(Replay(turn=self.turn, after=self.last_n))
        self._tell_to_stop()

    def on_relinked(self, link: AgentLink) -> None:
        """Continue with the same agent over a new link."""
        if self.phase is not RunPhase.OPEN:
            return
        course = course_with_agent(turn=self.turn, agent_turn=link.welcome.turn, last_n=self.last_n)
        if course is Course.REPLAY:
            self.replay(link)
        elif course is Course.START and self._standing:
            self.start(link)
        else:
            self.declare(declared_end(ErrorCode.AGENT_FAILED), usable=False)

    def _opened(self, link: AgentLink) -> bool:
        """Whether the turn continues over this link; False once its end is decided."""
        if self.phase is RunPhase.ENDED:
            return False
        self._life.to(RunPhase.OPEN)
        self._link = link
        return True

    def interrupt(self, reason: InterruptReason) -> None:
        """Stop the turn. The first reason counts; after the end, nothing happens.

        If no agent has the turn yet, it ends at once. The agent of an adopted turn is told as soon
        as it is reached.
        """
        stop = stop_in(self.phase)
        if stop is Stop.NOTHING or not self._stop.ask(reason):
            return
        log.info("turn interrupted", extra=fields(turn=self.turn, reason=reason))
        self._limits.interrupted()
        if stop is Stop.END:
            self.declare(interrupted_end(reason))
        else:
            self._tell_to_stop()

    def _tell_to_stop(self) -> None:
        if self._stop.reason and self._link:
            self._link.send(Interrupt(turn=self.turn, reason=self._stop.reason))

    # From the agent

    def on_frame(self, line: bytes) -> None:
        """Publish and log a frame, or end with it. Raises `MalformedMessage`."""
        if self._is_too_much(len(line)):
            return
        if self.phase is not RunPhase.OPEN:
            return  # After the end.
        # The event that is due, in the spelling others read: nothing of it has to be built anew.
        n = self._output.n + 1
        due = b"%b%d " % (self._head, n)
        if line.startswith(due):
            self._take_event(n, line, line[len(due) :])
            return
        self._take_other(decode_frame(line))

    def _take_other(self, frame: Frame) -> None:
        """Handle a frame that is not the next one, or not in the canonical encoding."""
        heard, self._gap = hear(
            frame.n, last_n=self.last_n, is_ours=frame.turn == self.turn, gap=self._gap
        )
        match heard:
            case Heard.TAKE:
                said = frame._replace(fence=self._held.fence)
                self._take_event(said.n, said.encode(), said.payload)
            case Heard.ASK:
                if self._link:
                    self._link.send(Replay(turn=self.turn, after=self.last_n))
            case Heard.GIVE_UP:
                missing = fields(turn=self.turn, after=self.last_n, n=frame.n)
                log.error("events missing", extra=missing)
                self.declare(declared_end(ErrorCode.AGENT_FAILED), usable=False)
            case Heard.SKIP | Heard.WAIT:
                pass

    def _is_too_much(self, size_bytes: int) -> bool:
        """Whether the agent has sent more than a turn may, including repeated events; then the turn
        ends."""
        self._said_bytes += size_bytes
        if self._said_bytes <= SAID_MAX_BYTES:
            return False
        if self.phase is not RunPhase.ENDED:
            log.error("an agent says too much", extra=fields(turn=self.turn))
            self.declare(declared_end(ErrorCode.AGENT_FAILED), usable=False)
        return True

    def _take_event(self, n: int, line: bytes, payload: bytes) -> None:
        """Validate an event once, for all later readers; publish and log it, or end with it."""
        if self._on_spoken is not None:
            self._note_spoken()
        if not self._has_delta and is_delta(payload):
            self._has_delta = True
            after_ms = self._parts.clock.unix_ms() - self.claimed.record.created_ms
            log.info("first delta", extra=fields(turn=self.turn, after_ms=after_ms))
        if self.timeline is not None:
            self._time(payload)
        try:
            event = check_event(payload)
            check_calls(event, self.claimed.request.turn_options.client_tools)
            if isinstance(event, TurnEnded):
                self._take_end(event)
                return
        except MalformedMessage as error:
            # Over another link it would say the same again.
            log.error("no event: %s", error, extra=fields(turn=self.turn, n=n))
            self.declare(declared_end(ErrorCode.AGENT_FAILED), usable=False)
            return
        if event is None and (kept := self._length.cut(payload)) is not None:
            self._end_at_length(n, kept)
            return
        if n == 1 and isinstance(event, TurnStarted):
            self.sdk_session = event.sdk_session
            unheard = (block for said in self.claimed.unheard for block in said.prompt)
            if are_fetched([*unheard, *self.claimed.request.prompt]):
                self.fetched_ns = latest_file_time_ns()
        self.has_used_tools = self.has_used_tools or isinstance(event, ToolCall)
        self._output.say(payload, line=line)
        if self._output.is_full and self._link:
            self._link.pause()

    def _end_at_length(self, n: int, kept: bytes) -> None:
        """The agent says more than its client wants. It should have noticed first."""
        log.error("an agent ignores the length", extra=fields(turn=self.turn))
        if kept:
            self._output.say(kept, line=b"%b%d %b" % (self._head, n, kept))
        self.declare(interrupted_end(InterruptReason.LENGTH), usable=False)

    def _note_spoken(self) -> None:
        call, self._on_spoken = self._on_spoken, None
        if call is not None:
            call()

    def on_times(self, times: AgentTimes) -> None:
        """Note how the agent started."""
        if self.timeline is not None:
            self.timeline.take(times)

    def on_servers(self, servers: McpServers) -> None:
        """Note how the agent's MCP servers are."""
        self._servers = servers

    def _time(self, payload: bytes) -> None:
        """Note what the agent's first events say about its start, until it has answered."""
        assert self.timeline is not None
        self.timeline.note(StartPhase.SPOKE)
        if is_delta(payload):
            self.timeline.note(StartPhase.FIRST_DELTA)
            self._tell_times()

    def _tell_times(self) -> None:
        if self.timeline is not None:
            self.timeline.tell()
            self.timeline = None

    def on_refused(self, refused: Refused) -> None:
        """The agent will not run the turn."""
        if refused.turn in (None, self.turn) and self.phase is not RunPhase.ENDED:
            said = foreign(refused.message)
            log.warning("agent refused: %s", said, extra=fields(turn=self.turn))
            self._decide(refused_ending(refused.code, last_n=self.last_n))

    def _take_end(self, end: TurnEnded) -> None:
        if not end.state.is_terminal:
            raise MalformedMessage("an end event that ends nothing")
        self._decide(agents_ending(end))

    def _acknowledge(self, n: int) -> None:
        if self._link is None:
            return
        self._link.send(Ack(turn=self.turn, n=n))
        if not self._output.is_full:
            self._link.resume()

    def _break_log(self, code: ErrorCode) -> None:
        """The log would have a gap for its readers: better an end than a silent gap."""
        self.declare(declared_end(code), usable=False)

    # The end

    def declare(self, end: TurnEnded, *, usable: bool = True) -> None:
        """End the turn instead of its agent. The first end counts."""
        self._decide(declared_ending(end, usable=usable))

    def fail_start(self, end: TurnEnded) -> None:
        """Its container or agent failed: start again if nothing can have happened, otherwise end.

        See `worker.turns.steps.failed_start`.
        """
        self._decide(failed_start(end, phase=self.phase, record=self.claimed.record))

    def fail_delivery(self, error: Exception) -> None:
        """The turn did not reach its agent. See `worker.turns.steps.failed_delivery`."""
        self._decide(failed_delivery(error, phase=self.phase, record=self.claimed.record))

    def _decide(self, ending: Ending) -> None:
        if self.phase is RunPhase.ENDED:
            return
        memory = memory_after(ending, ended_in=self.phase)
        self._life.to(RunPhase.ENDED)
        self._limits.stop()
        self._tell_times()
        self._ending.set_result(replace(ending, memory=memory))
        self._note_spoken()

    async def ended(self) -> Ending:
        """How the run ended, as soon as it has."""
        return await asyncio.shield(self._ending)

    async def log_events(self) -> None:
        """Keep logging until cancelled. Raises `LeaseLost`."""
        await self._output.run()

    @asynccontextmanager
    async def watched(self, *, on_spoken: Callable[[], None]) -> AsyncIterator[None]:
        """Meanwhile, enforce the deadline and the grace time of an interrupt, and book the turn's
        usage. The lease tells its owner when it is lost.

        `on_spoken` is called once, when the agent has sent its first event of the turn, or the
        turn's end is decided.
        """
        self._on_spoken = on_spoken
        if self.phase is RunPhase.ENDED:
            self._note_spoken()
        self._limits.start(left_s=self.left_s)
        try:
            look = partial(self.spending.look, self.open_request)
            async with self._parts.meters.following(look, self._held):
                try:
                    yield
                finally:
                    # An end from now on starts nothing in a group that is over.
                    self._on_spoken = None
        finally:
            self._limits.stop()

    def _give_up(self) -> None:
        """The grace time is over. An agent that is not done by then is not used again."""
        if self._stop.reason and self.phase is not RunPhase.ENDED:
            log.warning("interrupted agent did not end", extra=fields(turn=self.turn))
            self.declare(interrupted_end(self._stop.reason), usable=False)

    async def conclude(self, ending: Ending, *, made: TurnFiles | None = None) -> bool:
        """Log the end, close the turn and publish the end, in this order. Returns whether another
        turn waits. `made`: what became of the files that it made.

        Keeps trying while Redis is unavailable. Raises `LeaseLost`.
        """
        parts, c = self._parts, self.claimed.record.conversation
        assert ending.end is not None
        self._output.hurry()
        meter = await parts.gateway.close_turn(c, self.turn)
        overrun = await self.spending.end_of_overrun(meter)
        end = settled_end(
            ending.end,
            interrupted=self._stop.reason if overrun is None else None,
            meter=meter,
            used=await self.spending.total(meter),
            overrun=overrun,
        )
        waits = await self._output.close(
            end if made is None else end.model_copy(update={"made": made}),
            meter=meter,
            idle_timeout_s=self.claimed.request.idle_timeout_s,
            memory=ending.memory,
            digest=self._digest(),
            base=self._begun_base,
        )
        if self._link:
            self._link.send(Ack(turn=self.turn, n=self.last_n + 1))
        await note_servers(self._parts, self.claimed, self._servers, worker=self._held.lease.worker)
        return waits

    async def requeue(self, *, is_counted: bool) -> bool:
        """Return the turn to the queue, because nothing of it has happened. False if it may not
        return.

        Raises `LeaseLost`.
        """
        parts, lease = self._parts, self._held.lease
        if not await until_store_answers(
            lambda: parts.turns.requeue(lease, self.turn, is_counted=is_counted), parts.clock
        ):
            return False
        REQUEUES.inc()
        log.info("turn requeued", extra=fields(turn=self.turn, counted=is_counted))
        await parts.gateway.close_turn(lease.conversation, self.turn)
        return True

    def _digest(self) -> str | None:
        standing = self._standing.base if self._standing else None
        base = standing or self.claimed.record.base or self._begun_base
        return base.digest if base else None

    async def append_rest(self) -> None:
        """Log what waits, before handing over. Raises `LeaseLost` and `StoreUnavailable`."""
        await self._output.append_rest()


def _callers_budget(request: TurnRequest) -> int | None:
    """What the turn whose agent called this one's leaves to it; None for no limit of that kind."""
    return request.delegation.budget_tokens if request.delegation else None
