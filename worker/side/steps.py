"""Decides how a side turn continues, as pure functions of the known facts.

No I/O, no clock: `worker.side.run` gathers the facts, asks here, and carries out the answer.
"""

from __future__ import annotations

from infra.wire.endings import declared_end
from infra.wire.errors import ErrorCode, GatewayUnavailable
from infra.wire.events import TurnEnded, Usage
from infra.wire.gateway import GatewayFault
from infra.wire.model.upstream import upstream_error
from infra.wire.states import TurnState
from infra.wire.text.words import Case
from worker.gateway_client.client import CommandRefused
from worker.turns.course import Course, course_before_container

_ANSWERER_LOST = declared_end(Case.ANSWERER_LOST, state=TurnState.INTERRUPTED)


def end_before_start(*, state: TurnState, seq: int) -> TurnEnded | None:
    """The end of a turn whose worker was lost after its first output; None if it may start."""
    course = course_before_container(state=state, seq=seq)
    return None if course is Course.START else _ANSWERER_LOST


def end_of_broken_call(
    error: Exception, *, has_spoken: bool, is_patient: bool, usage: Usage
) -> TurnEnded | None:
    """How a turn ends if its model call broke; None if the call is made again.

    `has_spoken`: a part of the answer was already published, and another try would not match it.
    `is_patient`: the gateway may still come back in time. `usage` is what the answer reported so
    far.
    """
    match error:
        case CommandRefused():
            is_key = error.fault is GatewayFault.KEY_NOT_OPENED
            return declared_end(Case.KEY_UNREADABLE if is_key else Case.GATEWAY_SILENT)
        case GatewayUnavailable() if has_spoken:
            broken = upstream_error(ErrorCode.UPSTREAM_ERROR)
            return TurnEnded(state=TurnState.FAILED, usage=usage, error=broken)
        case GatewayUnavailable():
            return None if is_patient else declared_end(Case.GATEWAY_SILENT)
        case _:
            return declared_end(ErrorCode.INTERNAL)
