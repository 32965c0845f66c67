"""The ends of turns that a worker decides about. Pure."""

from __future__ import annotations

from infra.wire.endings import away_end, declared_end, interrupted_end
from infra.wire.errors import ErrorCode
from infra.wire.events import TurnEnded, Usage
from infra.wire.gateway import TurnMeter
from infra.wire.link import InterruptReason
from infra.wire.states import (
    TurnState,
)
from infra.wire.text.words import Case
from worker.hosts.host import ContainerExit


def exit_end(exit: ContainerExit) -> TurnEnded:
    """The end of a turn whose container ended."""
    code = ErrorCode.OUT_OF_MEMORY if exit.is_out_of_memory else ErrorCode.CONTAINER_LOST
    return declared_end(code)


def is_out_of_memory(end: TurnEnded) -> bool:
    """Whether lack of memory ended the turn."""
    return end.error is not None and end.error.code is ErrorCode.OUT_OF_MEMORY


def budget_end(*, day_ends_in_s: float | None = None) -> TurnEnded:
    """The end of a turn without budget: its own, or its tenant's for the rest of the day."""
    if day_ends_in_s is None:
        return declared_end(ErrorCode.BUDGET_EXCEEDED)
    return declared_end(Case.DAY_SPENT, retry_after_s=day_ends_in_s)


def explained_end(end: TurnEnded, meter: TurnMeter) -> TurnEnded:
    """The end with what the gateway knows of a model's service that did not answer."""
    away = meter.last_error.away if meter.last_error else None
    if away is None or end.error is None or end.error.code is not ErrorCode.UPSTREAM_UNREACHABLE:
        return end
    told = away_end(away).error
    return end.model_copy(update={"error": told})


def settled_end(
    end: TurnEnded,
    *,
    interrupted: InterruptReason | None,
    meter: TurnMeter,
    used: Usage | None = None,
    overrun: TurnEnded | None = None,
) -> TurnEnded:
    """The end as logged: the agent's report, corrected by what only the worker knows."""
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
