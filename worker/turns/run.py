"""One turn, from its claim to its end: the agent's frames in, live frames and log entries out.

A `TurnRun` is fed by the link, line by line and without decoding deltas; it publishes each frame as
it comes, logs it soon after and acknowledges to the agent what is logged. Whatever happens first
decides how the turn ends: the agent's own end, a declared one (container lost, deadline, cancel),
or nothing at all, when the conversation is no longer ours. It does not start agents or reconnect to
them: `worker.conversations.actor` does.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from infra.runtime.logs import fields
from infra.store.history import Memory
from infra.store.turns import ATTEMPTS_MAX, Claimed
from infra.wire.errors import ErrorCode, MalformedMessage
from infra.wire.events import TurnEnded, TurnStarted, check_event, encode_event
from infra.wire.foreign import foreign
from infra.wire.frames import Frame, decode_frame, frame_head
from infra.wire.gateway import OpenTurn
from infra.wire.ids import TurnId
from infra.wire.link import (
    Ack,
    AgentSettings,
    Interrupt,
    InterruptReason,
    Refused,
    Replay,
)
from infra.wire.states import TurnState
from worker.life import Life
from worker.ownership import HeldLease
from worker.parts import WorkerParts
from worker.turns.agent_link import AgentLink
from worker.turns.endings import declared_end, interrupted_end, is_out_of_memory, settled_end
from worker.turns.log_writer import TurnLogWriter
from worker.turns.memory import Standing
from worker.turns.phases import RUN_TRANSITIONS, RunPhase
from worker.turns.spending import Spending
from worker.waiting import signalled, until_store_answers

log = logging.getLogger(__name__)

AGENT_SHARE_OF_GRACE = 0.6
"""Of the grace, the part the agent itself may use before it kills its CLI; the rest is ours."""

GAP_FRAMES_MAX = 10_000
"""Frames behind a missing number that are dropped before the agent is given up."""
SAID_MAX_BYTES = 32 * 1024 * 1024
"""What one turn may say. The longest honest one takes 20 MB; Redis keeps it all until an hour after
its end, and who writes the agent's server anew would fill it for everybody."""


_UNSOUND = frozenset({ErrorCode.AGENT_FAILED, ErrorCode.CONTAINER_FAILED})


@dataclass(frozen=True)
class Ending:
    """How a run ended. `end` None: it is to go back to the queue.

    `is_agents` says that the agent itself ended it. `is_container_usable` is whether
    the next turn may run in the same container. `is_counted` False: it goes back because its host
    could not even try, so that it was no start of the turn.
    """

    end: TurnEnded | None
    is_agents: bool = False
    is_container_usable: bool = True
    is_counted: bool = True


class TurnRun:
    """The running of one claimed turn."""

    def __init__(self, parts: WorkerParts, held: HeldLease, claimed: Claimed) -> None:
        self.claimed = claimed
        self.turn: TurnId = claimed.record.turn
        self.last_n = claimed.record.seq
        """Newest number received; after an adoption, the newest one logged."""
        self.sdk_session: str | None = None
        self.standing: Standing | None = None
        """On what memory it starts; set by the conversation before `start`."""
        self.link: AgentLink | None = None
        """Set by the conversation; another one after each reconnect."""
        self._life = Life(f"run of {self.turn}", RunPhase.PREPARING, RUN_TRANSITIONS)
        self._parts = parts
        self._held = held
        self._is_under_way = claimed.is_adoption and claimed.record.state is TurnState.RUNNING
        self._is_given = self._is_under_way
        self._interrupted_for: InterruptReason | None = None
        self._interrupted = asyncio.Event()
        self._ending: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._head = frame_head(self.turn, held.fence)
        self._said_bytes = claimed.record.said_bytes
        self._gap_at = -1
        self._gap_frames = 0
        self.spoke = asyncio.Event()
        """The agent has said something of the turn, or it is decided how the turn ends."""
        self.spending = Spending(parts, held, claimed.record, is_taken_over=claimed.is_adoption)
        self._log = TurnLogWriter(
            parts.turn_log,
            held.lease,
            self.turn,
            parts.clock,
            on_logged=self._acknowledge,
            on_broken=self._break_log,
            every_s=parts.timings.log_every_s,
        )

    @property
    def phase(self) -> RunPhase:
        return self._life.state

    # Towards the agent

    def open_request(self) -> OpenTurn:
        """What the gateway needs to know of the turn."""
        record = self.claimed.record
        return OpenTurn(
            turn=self.turn,
            tenant=record.tenant,
            conversation=record.conversation,
            fence=self._held.fence,
            sealed_key=record.sealed_key or "",
            expires_ms=record.key_expires_ms,
            models=self._parts.settings.models_of_turn(self.claimed.request.model),
            budget_tokens=self.spending.budget_tokens,
            profile=self.claimed.request.profile or self.claimed.profile,
        )

    def start(self, link: AgentLink) -> None:
        """Give the turn to the agent; again after a reconnect, when it says it never got it.

        One that has ended meanwhile is not given to it any more.
        """
        assert self.standing is not None, "a turn starts on a memory"
        if not self._opened(link):
            return
        self._is_given = True
        settings, request = self._parts.settings, self.claimed.request
        link.send_line(
            self.standing.start_line(
                request,
                AgentSettings(
                    model=request.model,
                    system_prompt=request.system_prompt or settings.system_prompt,
                    tools=settings.tools,
                    model_tiers=settings.model_tiers,
                    max_turns=settings.max_turns,
                    interrupt_grace_s=settings.disconnect_grace_s * AGENT_SHARE_OF_GRACE,
                ),
            )
        )
        self._repeat_interrupt()

    def replay(self, link: AgentLink) -> None:
        """Read on after the last event seen; the agent has the turn already."""
        if not self._opened(link):
            return
        self._is_given = True
        link.send(Replay(turn=self.turn, after=self.last_n))
        self._repeat_interrupt()

    def _opened(self, link: AgentLink) -> bool:
        """Whether it goes on over this link; False once its end is decided."""
        if self.phase is RunPhase.ENDED:
            return False
        self._life.to(RunPhase.OPEN)
        self.link = link
        return True

    def interrupt(self, reason: InterruptReason) -> None:
        """Have it stopped. The first reason counts; after the end, nothing happens.

        A turn no agent has got yet ends at once; the agent of an adopted one is told as soon as it
        is reached.
        """
        if self._interrupted_for or self.phase is RunPhase.ENDED:
            return
        log.info("turn interrupted", extra=fields(turn=self.turn, reason=reason))
        self._interrupted_for = reason
        self._interrupted.set()
        if self.phase is RunPhase.PREPARING and not self._is_under_way:
            self.declare(interrupted_end(reason))
        else:
            self._repeat_interrupt()

    def _repeat_interrupt(self) -> None:
        if self._interrupted_for and self.link:
            self.link.send(Interrupt(turn=self.turn, reason=self._interrupted_for))

    # From the agent

    def on_frame(self, line: bytes) -> None:
        """Publish it, log it, or end with it. Raises `MalformedMessage`."""
        if self._is_too_much(len(line)):
            return
        if self.phase is not RunPhase.OPEN:
            return  # After the end.
        # The event that is due, in the spelling others read: nothing of it has to be built anew.
        due = b"%b%d " % (self._head, self.last_n + 1)
        if line.startswith(due):
            self._take_event(self.last_n + 1, line, line[len(due) :])
            return
        frame = decode_frame(line)
        if frame.turn != self.turn or frame.n <= self.last_n:
            return  # An earlier turn's last words, or seen before.
        if frame.n != self.last_n + 1:
            self._ask_again(frame.n)
        else:
            said = frame._replace(fence=self._held.fence)
            self._take_event(said.n, said.encode(), said.payload)

    def _is_too_much(self, size_bytes: int) -> bool:
        """Whether the agent has said more than a turn may, seen before or not; then it ends."""
        self._said_bytes += size_bytes
        if self._said_bytes <= SAID_MAX_BYTES:
            return False
        if self.phase is not RunPhase.ENDED:
            log.error("an agent says too much", extra=fields(turn=self.turn))
            self.declare(declared_end(ErrorCode.AGENT_FAILED), usable=False)
        return True

    def _take_event(self, n: int, line: bytes, payload: bytes) -> None:
        """Check it once, for all who read it after us; publish and log it, or end with it."""
        self.spoke.set()
        try:
            event = check_event(payload)
            if isinstance(event, TurnEnded):
                self._take_end(event)
                return
        except MalformedMessage as error:
            # Over another link it would say the same again.
            log.error("no event: %s", error, extra=fields(turn=self.turn, n=n))
            self.declare(declared_end(ErrorCode.AGENT_FAILED), usable=False)
            return
        if n == 1 and isinstance(event, TurnStarted):
            self.sdk_session = event.sdk_session
        self.last_n = n
        self._publish(line)
        self._log.add(n, payload)
        if self._log.is_full and self.link:
            self.link.pause()

    def on_refused(self, refused: Refused) -> None:
        """The agent will not run the turn."""
        if refused.turn in (None, self.turn) and self.phase is not RunPhase.ENDED:
            said = foreign(refused.message)
            log.warning("agent refused: %s", said, extra=fields(turn=self.turn))
            code = ErrorCode.AGENT_FAILED if self.last_n else ErrorCode.CONTAINER_FAILED
            if refused.code is ErrorCode.LOG_LOST:
                code = ErrorCode.LOG_LOST
            self.declare(declared_end(code), usable=False)

    def _publish(self, line: bytes) -> None:
        # Past the self-fencing time another worker may be publishing; the log heals the gap.
        if self._held.may_publish():
            self._parts.live.publish(self.claimed.record.replica, line)

    def _take_end(self, end: TurnEnded) -> None:
        if not end.state.is_terminal:
            raise MalformedMessage("an end event that ends nothing")
        # What broke the agent may still be in the container: processes, a full disk.
        is_sound = end.error is None or end.error.code not in _UNSOUND
        self._decide(Ending(end, is_agents=True, is_container_usable=is_sound))

    def _ask_again(self, n: int) -> None:
        """A number is missing: ask for it once; what was under way meanwhile is dropped."""
        if self._gap_at != self.last_n:
            self._gap_at, self._gap_frames = self.last_n, 0
            if self.link:
                self.link.send(Replay(turn=self.turn, after=self.last_n))
        self._gap_frames += 1
        if self._gap_frames > GAP_FRAMES_MAX:
            log.error("events missing", extra=fields(turn=self.turn, after=self.last_n, n=n))
            self.declare(declared_end(ErrorCode.AGENT_FAILED), usable=False)

    def _acknowledge(self, n: int) -> None:
        if self.link is None:
            return
        self.link.send(Ack(turn=self.turn, n=n))
        if not self._log.is_full:
            self.link.resume()

    def _break_log(self, code: ErrorCode) -> None:
        """Who reads on from the log would miss something: better an end than a silent gap."""
        self.declare(declared_end(code), usable=False)

    # The end

    def declare(self, end: TurnEnded, *, usable: bool = True) -> None:
        """End the turn for the agent, which cannot or shall not any more. The first end counts."""
        self._decide(Ending(end, is_container_usable=usable))

    def fail_start(self, end: TurnEnded) -> None:
        """Its container or agent failed: start it afresh where nothing can have happened, else end.

        At most two starts, and only while the agent has not got it and nothing was logged. What
        never began ends as that, whatever ended its container.
        """
        record = self.claimed.record
        is_claimed = self.phase is RunPhase.PREPARING and record.state is TurnState.CLAIMED
        is_untouched = is_claimed and record.seq == 0
        if is_untouched and record.attempt < ATTEMPTS_MAX:
            self.give_back()
        elif is_untouched and not is_out_of_memory(end):
            self.declare(declared_end(ErrorCode.CONTAINER_FAILED), usable=False)
        else:
            self.declare(end, usable=False)

    def give_back(self, *, is_counted: bool = True) -> None:
        """Nothing happened yet: back to the queue, for a fresh start.

        The store agrees only as long as attempts are left and nothing was logged.
        """
        self._decide(Ending(None, is_container_usable=False, is_counted=is_counted))

    def _decide(self, ending: Ending) -> None:
        if not self._ending.done():
            self._life.to(RunPhase.ENDED)
            self.spoke.set()
            self._ending.set_result(ending)

    async def ended(self) -> Ending:
        """How the run ended, as soon as it has."""
        return await asyncio.shield(self._ending)

    async def log_events(self) -> None:
        """Keep logging until cancelled. Raises `LeaseLost`."""
        await self._log.run()

    async def watch(self) -> None:
        """Enforce the deadline and the grace of an interrupt, and book what the turn uses, until
        cancelled. Raises `LeaseLost`, in a group."""
        async with asyncio.TaskGroup() as group:
            following = group.create_task(self.spending.follow(self.open_request))
            stopping = group.create_task(self._stop_overrun())
            await self._watch_time()
            following.cancel()
            stopping.cancel()

    async def _stop_overrun(self) -> None:
        """An agent whose calls are refused for the budget ends its turn; one that goes on is
        stopped."""
        await self.spending.overrun.wait()
        await self._parts.clock.sleep(self._parts.settings.disconnect_grace_s)
        self.interrupt(InterruptReason.CANCELLED)

    async def _watch_time(self) -> None:
        clock, grace_s = self._parts.clock, self._parts.settings.disconnect_grace_s
        if not await signalled(self._interrupted, clock, timeout_s=self.claimed.left_s):
            self.interrupt(InterruptReason.DEADLINE)
        await clock.sleep(grace_s)
        if self._interrupted_for and self.phase is not RunPhase.ENDED:
            log.warning("interrupted agent did not end", extra=fields(turn=self.turn))
            self.declare(interrupted_end(self._interrupted_for), usable=False)

    async def conclude(self, ending: Ending) -> bool:
        """Log, close and tell the end, in this order; whether another turn waits.

        While Redis is away this goes on trying. Raises `LeaseLost`.
        """
        parts, c = self._parts, self.claimed.record.conversation
        assert ending.end is not None
        meter = await parts.gateway.close_turn(c, self.turn)
        overrun = await self.spending.end_of_overrun(meter)
        interrupted = self._interrupted_for if overrun is None else None
        used = await self.spending.total(meter)
        end = settled_end(
            ending.end, interrupted=interrupted, meter=meter, used=used, overrun=overrun
        )
        n = self.last_n + 1

        async def finish(at: int, broken: ErrorCode | None) -> bool:
            nonlocal end
            if broken:
                end = declared_end(broken).model_copy(update={"usage": end.usage})
            return await until_store_answers(
                lambda: parts.turns.finish(
                    self._held.lease,
                    self.turn,
                    at,
                    end,
                    idle_timeout_s=self.claimed.request.idle_timeout_s,
                    memory=self._memory_after(ending),
                    digest=self._digest(),
                    meter=meter,
                ),
                parts.clock,
            )

        waits = await self._log.finish(finish, n)
        self._publish(Frame(self.turn, self._held.fence, n, encode_event(end)).encode())
        if self.link:
            self.link.send(Ack(turn=self.turn, n=n))
        log.info(
            "turn ended",
            extra=fields(turn=self.turn, state=end.state, code=end.error and end.error.code, n=n),
        )
        return waits

    async def requeue(self, *, is_counted: bool) -> bool:
        """Back to the queue, as nothing of it has happened; False when it may not.

        Raises `LeaseLost`.
        """
        parts, lease = self._parts, self._held.lease
        if not await until_store_answers(
            lambda: parts.turns.requeue(lease, self.turn, is_counted=is_counted), parts.clock
        ):
            return False
        log.info("turn requeued", extra=fields(turn=self.turn, counted=is_counted))
        await parts.gateway.close_turn(lease.conversation, self.turn)
        return True

    def _digest(self) -> str | None:
        base = self.standing.base if self.standing else self.claimed.record.base
        return base.digest if base else None

    def _memory_after(self, ending: Ending) -> Memory:
        if ending.is_agents:
            assert ending.end is not None
            return Memory.TOLD if ending.end.is_remembered else Memory.NOTHING
        return Memory.UNKNOWN if self._is_given else Memory.NOTHING

    async def append_rest(self) -> None:
        """Before handing over: log what waits. Raises `LeaseLost` and `StoreUnavailable`."""
        await self._log.append_rest()
