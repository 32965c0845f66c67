"""Decides what the run of a turn does next, as pure functions of the known facts.

No I/O, no clock: `worker.turns.run` gathers the facts, asks here, and carries out the answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from infra.store.turns.history import Memory
from infra.store.turns.records import TurnRecord
from infra.store.turns.turns import ATTEMPTS_MAX
from infra.wire.endings import declared_end
from infra.wire.errors import (
    AgentImageRefused,
    AgentUnreachable,
    ContainerFailed,
    EngineFailed,
    ErrorCode,
    GatewayUnavailable,
)
from infra.wire.events import TurnEnded
from infra.wire.gateway import GatewayFault
from infra.wire.states import TurnState
from infra.wire.text.words import Case
from worker.gateway_client.client import CommandRefused
from worker.turns.endings import is_out_of_memory
from worker.turns.phases import RunPhase

GAP_FRAMES_MAX = 10_000
"""Frames after a missing number that are dropped before the agent is given up."""

_UNSOUND = frozenset({ErrorCode.AGENT_FAILED, ErrorCode.CONTAINER_FAILED})


def first_phase(*, state: TurnState, is_adoption: bool) -> RunPhase:
    """The first phase of a claimed turn's run. `state` is the turn's recorded state."""
    is_under_way = is_adoption and state is TurnState.RUNNING
    return RunPhase.ADOPTED if is_under_way else RunPhase.PREPARING


# Interrupts


class Stop(Enum):
    """What an interrupt means for a run."""

    NOTHING = auto()
    """Its end is decided."""
    END = auto()
    """No agent has it: it ends at once."""
    TELL = auto()
    """Its agent is told, now or as soon as it is reached, and ends it."""


def stop_in(phase: RunPhase) -> Stop:
    """What to do with a turn that somebody wants stopped."""
    match phase:
        case RunPhase.PREPARING:
            return Stop.END
        case RunPhase.ADOPTED | RunPhase.OPEN:
            return Stop.TELL
        case RunPhase.ENDED:
            return Stop.NOTHING


# Frames


class Heard(Enum):
    """What to do with a frame from the agent."""

    TAKE = auto()
    """It is the next event."""
    SKIP = auto()
    """It belongs to an earlier turn, or was seen before."""
    ASK = auto()
    """Events before it are missing: request them again. This one comes again with them."""
    WAIT = auto()
    """The same, and they were already requested."""
    GIVE_UP = auto()
    """The same, and they have not come for too long."""


@dataclass(frozen=True)
class Gap:
    """Events that are missing after number `after`, and how many frames were dropped since."""

    after: int = -1
    frames: int = 0


def hear(n: int, *, last_n: int, is_ours: bool, gap: Gap) -> tuple[Heard, Gap]:
    """What to do with frame `n`, and the resulting gap.

    `is_ours`: it belongs to the running turn. `last_n` is the newest received number.
    """
    if not is_ours or n <= last_n:
        return Heard.SKIP, gap
    if n == last_n + 1:
        return Heard.TAKE, gap
    if gap.after != last_n:
        return Heard.ASK, Gap(last_n, 1)
    wider = Gap(last_n, gap.frames + 1)
    return Heard.GIVE_UP if wider.frames > GAP_FRAMES_MAX else Heard.WAIT, wider


# Ends


@dataclass(frozen=True)
class Ending:
    """How a run ended. `end` None: it is to go back to the queue.

    `is_agents` says that the agent itself ended it. `is_container_usable` is whether
    the next turn may run in the same container. `is_counted` False: it goes back because its host
    could not even try, so that it was no start of the turn. `memory` is what the agent remembers of
    the turn; the run knows when it takes the ending.
    """

    end: TurnEnded | None
    is_container_usable: bool
    is_agents: bool = False
    is_counted: bool = True
    memory: Memory = Memory.NOTHING


def agents_ending(end: TurnEnded) -> Ending:
    """The agent has ended the turn. The cause of a failure may still be in the container:
    processes, a full disk."""
    is_sound = end.error is None or end.error.code not in _UNSOUND
    return Ending(end, is_agents=True, is_container_usable=is_sound)


def declared_ending(end: TurnEnded, *, usable: bool = True) -> Ending:
    """The turn is ended by the worker, because its agent cannot or should not do it."""
    return Ending(end, is_container_usable=usable)


def back_to_queue(*, is_counted: bool = True) -> Ending:
    """Nothing has happened yet: a new start is due."""
    return Ending(None, is_container_usable=False, is_counted=is_counted)


def failed_start(end: TurnEnded, *, phase: RunPhase, record: TurnRecord) -> Ending:
    """The turn's container or agent has failed: a new start if nothing can have happened, otherwise
    this end.

    There are at most two starts, and only while no agent has got the turn and nothing was logged. A
    turn that never began ends as such, whatever ended its container.
    """
    is_claimed = phase is RunPhase.PREPARING and record.state is TurnState.CLAIMED
    is_untouched = is_claimed and record.seq == 0
    if is_untouched and record.attempt < ATTEMPTS_MAX:
        return back_to_queue()
    if is_untouched and not is_out_of_memory(end):
        return declared_ending(declared_end(ErrorCode.CONTAINER_FAILED), usable=False)
    return declared_ending(end, usable=False)


def failed_delivery(error: Exception, *, phase: RunPhase, record: TurnRecord) -> Ending:
    """What happens to a turn that could not be delivered to its agent."""
    match error:
        case EngineFailed():
            # It was no try of the turn, and another host may do better.
            return back_to_queue(is_counted=False)
        case AgentImageRefused():
            return declared_ending(declared_end(Case.AGENT_IMAGE), usable=False)
        case ContainerFailed() | AgentUnreachable():
            return failed_start(declared_end(error.code), phase=phase, record=record)
        case CommandRefused():
            is_key = error.fault is GatewayFault.KEY_NOT_OPENED
            why = Case.KEY_UNREADABLE if is_key else ErrorCode.CONTAINER_FAILED
            return declared_ending(declared_end(why))
        case GatewayUnavailable():
            return declared_ending(declared_end(Case.GATEWAY_SILENT))
        case _:
            return declared_ending(declared_end(ErrorCode.INTERNAL), usable=False)


def refused_ending(code: ErrorCode, *, last_n: int) -> Ending:
    """The agent does not run the turn, or does not continue it."""
    if code is not ErrorCode.LOG_LOST:
        code = ErrorCode.AGENT_FAILED if last_n else ErrorCode.CONTAINER_FAILED
    return declared_ending(declared_end(code), usable=False)


def memory_after(ending: Ending, *, ended_in: RunPhase) -> Memory:
    """What the agent remembers of the turn. `ended_in` is the phase in which its end was
    decided."""
    if ending.is_agents and ending.end is not None:
        return Memory.TOLD if ending.end.is_remembered else Memory.NOTHING
    is_given = ended_in in (RunPhase.ADOPTED, RunPhase.OPEN)
    return Memory.UNKNOWN if is_given else Memory.NOTHING
