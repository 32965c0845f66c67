"""What a worker decides, as pure functions: how turns end, who takes over, what is swept.

No I/O, no clock. The modules around gather the facts, ask here, and carry the answer out.
"""

from __future__ import annotations

from collections.abc import Mapping

from infra.wire.errors import DAY_IS_SPENT, ErrorCode
from infra.wire.events import TurnEnded, TurnError, Usage
from infra.wire.gateway import TurnMeter
from infra.wire.link import InterruptReason
from infra.wire.states import (
    TurnState,
)
from worker.hosts.host import ContainerExit

_WORDS: Mapping[ErrorCode, str] = {
    ErrorCode.OUT_OF_MEMORY: "The agent was killed, most likely because it ran out of memory. "
    "The next message starts a new one with the conversation so far.",
    ErrorCode.CONTAINER_LOST: "The agent's container ended while it was working. "
    "The next message starts a new one with the conversation so far.",
    ErrorCode.CONTAINER_FAILED: "The agent could not be started. Please try again.",
    ErrorCode.AGENT_FAILED: "The agent stopped responding and was ended. "
    "The next message starts a new one with the conversation so far.",
    ErrorCode.TURN_TIMED_OUT: "The turn took longer than it may and was stopped.",
    ErrorCode.WORKSPACE_FULL: "The files of this conversation take more room than they may, so the "
    "turn was ended. The next one may remove some; it is ended when it adds to them.",
    ErrorCode.BUDGET_EXCEEDED: "This turn has used all the tokens it may and was stopped.",
    ErrorCode.LOG_LOST: "Part of this answer was lost with Redis' data, so the turn was ended. "
    "Please send the message again.",
    ErrorCode.TENANT_LIMIT: "The conversations and answers of this API key take all the room "
    "they may, so this turn was ended. Please delete conversations, or wait until old ones are "
    "forgotten.",
    ErrorCode.SHUTTING_DOWN: "The server is shutting down and stopped this turn. "
    "Please send it again.",
    ErrorCode.INTERNAL: "Something went wrong inside the server; the turn was ended.",
}


# How a turn ends


def declared_end(
    code: ErrorCode, *, state: TurnState = TurnState.FAILED, message: str | None = None
) -> TurnEnded:
    """The end a worker declares when the agent no longer can."""
    return TurnEnded(state=state, error=TurnError(code=code, message=message or _WORDS[code]))


UNREADABLE_KEY = declared_end(
    ErrorCode.INVALID_KEY,
    message="The API key of this turn can no longer be read. Please send the message again.",
)
NO_GATEWAY = declared_end(
    ErrorCode.CONTAINER_FAILED,
    message="The model gateway of this host does not answer. Please try again.",
)


def interrupted_end(reason: InterruptReason) -> TurnEnded:
    """How a turn ends that we stopped."""
    match reason:
        case InterruptReason.CANCELLED:
            return TurnEnded(state=TurnState.CANCELLED)
        case InterruptReason.DEADLINE:
            return declared_end(ErrorCode.TURN_TIMED_OUT)
        case InterruptReason.SHUTDOWN:
            return declared_end(ErrorCode.SHUTTING_DOWN, state=TurnState.INTERRUPTED)


def exit_end(exit: ContainerExit) -> TurnEnded:
    """The end of a turn whose container ended."""
    code = ErrorCode.OUT_OF_MEMORY if exit.is_out_of_memory else ErrorCode.CONTAINER_LOST
    return declared_end(code)


def is_out_of_memory(end: TurnEnded) -> bool:
    """Whether that is what ended the turn."""
    return end.error is not None and end.error.code is ErrorCode.OUT_OF_MEMORY


def budget_end(*, day_ends_in_s: float | None = None) -> TurnEnded:
    """The end of a turn without budget: its own, or its tenant's for the rest of the day."""
    if day_ends_in_s is None:
        return declared_end(ErrorCode.BUDGET_EXCEEDED)
    error = TurnError(
        code=ErrorCode.BUDGET_EXCEEDED, message=DAY_IS_SPENT, retry_after_s=day_ends_in_s
    )
    return TurnEnded(state=TurnState.FAILED, error=error)


def settled_end(
    end: TurnEnded,
    *,
    interrupted: InterruptReason | None,
    meter: TurnMeter,
    used: Usage | None = None,
    overrun: TurnEnded | None = None,
) -> TurnEnded:
    """The end as it is logged: the agent's word, corrected by what only the worker knows.

    A turn we interrupted ends for our reason, unless its answer was complete before; so does one
    whose calls were stopped for its budget (`overrun`). The gateway saw how long the upstream wants
    us to wait. `used` is what the books say of the turn: the agent knows of its main thread only,
    not of sub-agents, searches, summaries and tries that broke.
    """
    ours = interrupted_end(interrupted) if interrupted else overrun
    if ours and end.state is not TurnState.DONE:
        end = end.model_copy(update={"state": ours.state, "error": ours.error})
    waits = meter.last_error.retry_after_s if meter.last_error else None
    if end.error and end.error.retry_after_s is None and waits is not None:
        error = end.error.model_copy(update={"retry_after_s": waits})
        end = end.model_copy(update={"error": error})
    if used:
        end = end.model_copy(update={"usage": used})
    return end


# How a claimed turn goes on


# What becomes of open turns that nobody works on


# What becomes of containers


# Steps between states
