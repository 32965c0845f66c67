"""How a side turn goes on, fact by fact."""

from __future__ import annotations

import pytest

from infra.wire.endings import declared_end
from infra.wire.errors import ErrorCode, GatewayUnavailable
from infra.wire.events import TurnEnded, Usage
from infra.wire.gateway import GatewayFault, GatewayRefused
from infra.wire.states import TurnState
from infra.wire.text.words import Case
from worker.gateway_client.client import CommandRefused
from worker.side.steps import end_before_start, end_of_broken_call

USED = Usage(input_tokens=3)
AWAY = GatewayUnavailable("away")


def refused(fault: GatewayFault) -> CommandRefused:
    return CommandRefused(GatewayRefused(fault=fault, message="no"))


@pytest.mark.parametrize("seq", [0, 1])
@pytest.mark.parametrize("state", [TurnState.CLAIMED, TurnState.RUNNING])
def test_only_a_turn_that_has_said_nothing_is_answered_anew(state: TurnState, seq: int) -> None:
    end = end_before_start(state=state, seq=seq)
    if (state, seq) == (TurnState.CLAIMED, 0):
        assert end is None
    else:
        assert end == declared_end(Case.ANSWERER_LOST, state=TurnState.INTERRUPTED)


@pytest.mark.parametrize("is_patient", [True, False])
@pytest.mark.parametrize("has_spoken", [True, False])
@pytest.mark.parametrize(
    ("error", "end"),
    [
        (refused(GatewayFault.KEY_NOT_OPENED), declared_end(Case.KEY_UNREADABLE)),
        (refused(GatewayFault.NO_SESSION), declared_end(Case.GATEWAY_SILENT)),
        (RuntimeError("ours"), declared_end(ErrorCode.INTERNAL)),
    ],
    ids=["key", "refused", "ours"],
)
def test_what_no_other_try_would_mend_ends_the_turn_at_once(
    error: Exception, end: TurnEnded, has_spoken: bool, is_patient: bool
) -> None:
    told = end_of_broken_call(error, has_spoken=has_spoken, is_patient=is_patient, usage=USED)
    assert told == end


@pytest.mark.parametrize("is_patient", [True, False])
def test_an_answer_that_breaks_off_ends_with_what_it_has_used(is_patient: bool) -> None:
    end = end_of_broken_call(AWAY, has_spoken=True, is_patient=is_patient, usage=USED)
    assert end is not None
    assert end.error is not None
    assert (end.error.code, end.usage) == (ErrorCode.UPSTREAM_ERROR, USED)


@pytest.mark.parametrize(
    ("is_patient", "end"), [(True, None), (False, declared_end(Case.GATEWAY_SILENT))]
)
def test_a_gateway_that_restarts_is_waited_for_while_nothing_was_said(
    is_patient: bool, end: TurnEnded | None
) -> None:
    told = end_of_broken_call(AWAY, has_spoken=False, is_patient=is_patient, usage=USED)
    assert told == end
