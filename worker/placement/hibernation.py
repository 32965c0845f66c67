"""Hibernates idle conversations while their host has little memory: their containers are stopped,
the longest idle first, and their next turns start them again.

All workers of a host see the same available memory. Each knows from the heartbeats of the others
for how long their conversations have been idle, and stops only those of its own that are among the
longest idle of the host. So together they stop about as many as one worker would.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from infra.runtime.logs import fields
from infra.wire.errors import AgClusterError
from infra.wire.ids import ConversationKey
from infra.wire.states import Hibernation
from worker.conversations.actor import Conversation
from worker.hosts.capacity import IDLE_AGENT_MB, HostMemory, WaterMarks
from worker.parts import WorkerParts
from worker.placement.idle_stops import STOPS_AT_ONCE
from worker.placement.leaving import siblings_of

log = logging.getLogger(__name__)

LOOK_AT_LEAST_S, LOOK_AT_MOST_S = 0.5, 1.0
"""Seconds between two looks at the memory, which take tens of microseconds."""


@dataclass(frozen=True)
class Idle:
    """A conversation with a container and nothing to do."""

    conversation: ConversationKey
    since_ms: int
    is_resumable: bool = True
    """Whether its next agent will know everything that this one knows."""


def order(idle: Sequence[Idle]) -> Sequence[Idle]:
    """Who goes first: those that lose nothing, the longest idle first."""
    return sorted(idle, key=lambda one: (not one.is_resumable, one.since_ms))


def to_hibernate(
    mine: Sequence[Idle], others_since_ms: Sequence[int], *, wanted_mb: int, under_way: int
) -> Sequence[Idle]:
    """Which of this worker's conversations to hibernate now.

    `others_since_ms` are the idle conversations of the host's other workers. `wanted_mb` is the
    memory that the host lacks, of which `under_way` conversations of this worker are giving back
    their part already.
    """
    lacking = math.ceil(max(wanted_mb, 0) / IDLE_AGENT_MB) - under_way
    most = max(min(lacking, STOPS_AT_ONCE - under_way), 0)
    chosen: list[Idle] = []
    others = sorted(others_since_ms)
    for one in order(mine):
        # Of another worker's only those are told that lose nothing, so they go before ours that do.
        earlier = sum(1 for since in others if not one.is_resumable or since < one.since_ms)
        if len(chosen) + earlier >= most:
            break
        chosen.append(one)
    return chosen


class MemoryRelief:
    """Hibernates one worker's conversations for the sake of its host's memory."""

    def __init__(
        self,
        parts: WorkerParts,
        conversations: Mapping[ConversationKey, Conversation],
        memory: HostMemory,
        marks: WaterMarks,
        *,
        on_room: Callable[[], None],
    ) -> None:
        """`conversations` are the worker's current ones. `on_room` is called when memory suffices
        again to start something new."""
        self._parts = parts
        self._conversations = conversations
        self._memory = memory
        self._marks = marks
        self._on_room = on_room
        self._is_low = False

    def idle_since_ms(self) -> Sequence[int]:
        """What the heartbeat tells the host's other workers. They look at no more than may stop at
        once. Those that are being stopped are included: their memory is not back yet."""
        actors = self._conversations.values()
        going = [self._as_idle(one) for one in actors if one.is_being_stopped]
        idle = [one for one in order([*going, *self._idle()]) if one.is_resumable]
        return [one.since_ms for one in idle[:STOPS_AT_ONCE]]

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self._parts.clock.sleep(random.uniform(LOOK_AT_LEAST_S, LOOK_AT_MOST_S))
            try:
                await self.look()
            except AgClusterError as error:
                log.warning("not hibernated: %s", error)
            except Exception:
                # One look that goes wrong must not end the worker.
                log.exception("hibernation failed")

    async def look(self) -> None:
        """Look at the memory, and hibernate what has to go. Raises `StoreUnavailable`."""
        if self._memory.look():
            self._on_room()
        wanted_mb = self._wanted_mb()
        if not wanted_mb:
            return
        under_way = sum(actor.is_being_stopped for actor in self._conversations.values())
        others: list[int] = []
        if self._idle() and under_way < STOPS_AT_ONCE:
            others = [ms for one in await siblings_of(self._parts) for ms in one.idle_since_ms]
        # The list is made after the last await: no turn may have arrived meanwhile.
        chosen = to_hibernate(self._idle(), others, wanted_mb=wanted_mb, under_way=under_way)
        for one in chosen:
            self._conversations[one.conversation].hibernate(Hibernation.MEMORY)

    def _wanted_mb(self) -> int:
        """How much memory the host lacks. Between the marks it lacks some until the high one is
        reached."""
        left_mb, marks = self._memory.left_mb, self._marks
        if left_mb is None:
            return 0
        was_low = self._is_low
        self._is_low = left_mb < (marks.high_mb if was_low else marks.low_mb)
        if self._is_low is not was_low:
            said = "memory is low" if self._is_low else "memory is no longer low"
            idle = len(self._idle())
            log.info(said, extra=fields(left_mb=left_mb, low_mb=marks.low_mb, idle=idle))
        return marks.high_mb - left_mb if self._is_low else 0

    def _idle(self) -> list[Idle]:
        actors = self._conversations.values()
        resting = [one for one in actors if one.is_resting and not one.is_being_stopped]
        return [self._as_idle(one) for one in resting]

    def _as_idle(self, actor: Conversation) -> Idle:
        clock = self._parts.clock
        since_ms = clock.unix_ms() - round((clock.monotonic() - actor.idle_since_s) * 1000)
        return Idle(actor.key, since_ms, actor.is_resumable)
