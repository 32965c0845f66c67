"""An agent may call what the client of its turn offers, and nothing else."""

from __future__ import annotations

import pytest

from infra.wire.errors import MalformedMessage
from infra.wire.events import ClientCall, EndReason, Event, Notice, TurnEnded
from infra.wire.options import ClientTool, ClientTools
from infra.wire.states import TurnState
from worker.turns.link.client_calls import check_calls

OFFERED = ClientTools(tools=(ClientTool(name="f"),))
CALL = ClientCall(id="call_1", name="f", arguments="{}")
END = TurnEnded(state=TurnState.DONE, end_reason=EndReason.CALLS)


@pytest.mark.parametrize(
    ("event", "offered"),
    [(CALL, OFFERED), (END, OFFERED), (Notice(text="x"), None), (None, None)],
)
def test_what_is_offered_may_be_called(event: Event | None, offered: ClientTools | None) -> None:
    check_calls(event, offered)


@pytest.mark.parametrize(
    ("event", "offered"),
    [
        (CALL, None),
        (CALL.model_copy(update={"name": "g"}), OFFERED),
        (CALL.model_copy(update={"is_legacy": True}), OFFERED),
        (END, None),
    ],
)
def test_nothing_else_may(event: Event, offered: ClientTools | None) -> None:
    with pytest.raises(MalformedMessage):
        check_calls(event, offered)
