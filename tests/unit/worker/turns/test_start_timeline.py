"""One line in the log tells how an agent's start went."""

from __future__ import annotations

import logging

import pytest

from infra.store.turns.records import TurnRecord
from infra.wire.ids import ConversationKey, Fence, ReplicaId, TenantId, TurnId
from infra.wire.link import AgentTimes
from infra.wire.states import TurnState
from infra.wire.turns import Lane, OnDisconnect
from tests.fakes.manual_clock import ManualClock
from tests.fakes.worker_stage import Stage, conversation
from worker.turns.start_timeline import EVENT, StartPhase, StartTimeline

C = conversation("one")
ASKED_MS = 1_700_000_000_000


def record() -> TurnRecord:
    return TurnRecord(
        turn=TurnId("turn_1"),
        conversation=ConversationKey("0123456789abcdef01234567"),
        tenant=TenantId("t"),
        replica=ReplicaId("r"),
        state=TurnState.CLAIMED,
        model="m",
        attempt=1,
        fence=Fence(1),
        seq=0,
        created_ms=ASKED_MS,
        sealed_key=None,
        key_expires_ms=0,
        on_disconnect=OnDisconnect.CANCEL,
        lane=Lane.AGENT,
        cancel=None,
    )


class FixedClock(ManualClock):
    """Shows what a test wants to have reached."""

    shown_ms = ASKED_MS

    def unix_ms(self) -> int:
        return self.shown_ms


def told_timeline(*, claimed_ms: int, first_delta_ms: int, is_resumed: bool = False) -> None:
    """Log a short timeline."""
    clock = FixedClock()
    clock.shown_ms = ASKED_MS + claimed_ms
    timeline = StartTimeline(clock, record(), isolation="docker")
    timeline.is_resumed = is_resumed
    timeline.note_at(StartPhase.FIRST_DELTA, ASKED_MS + first_delta_ms)
    timeline.tell()


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    return [r.__dict__["agc_fields"] for r in caplog.records if r.getMessage() == EVENT]


def test_phases_are_told_in_order_and_since_the_request(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = FixedClock()
    clock.shown_ms = ASKED_MS + 10
    timeline = StartTimeline(clock, record(), isolation="bubblewrap")
    clock.shown_ms = ASKED_MS + 40
    timeline.note(StartPhase.LINKED)
    timeline.note_at(StartPhase.CREATED, None)
    timeline.take(AgentTimes(python_ms=ASKED_MS + 20, cli_connected_ms=ASKED_MS + 60))
    clock.shown_ms = ASKED_MS + 70
    timeline.note(StartPhase.LINKED)

    timeline.tell()

    [told] = lines(caplog)
    reached = {name: value for name, value in told.items() if name.endswith("_ms")}
    assert list(reached.items()) == [
        ("claimed_ms", 10),
        ("python_ms", 20),
        ("linked_ms", 40),
        ("cli_connected_ms", 60),
    ]
    assert told["isolation"] == "bubblewrap"


async def test_a_cold_turn_tells_its_start_once_and_a_warm_one_nothing(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await stage.worker()
    for prompt in ("echo cold", "echo warm"):
        await stage.ended(await stage.ask(C, prompt))

    [told] = lines(caplog)
    assert {f"{phase}_ms" for phase in StartPhase} - told.keys() == {"created_ms", "spare_ms"}
    assert told["resumed"] is False


async def test_a_start_without_an_answer_is_told_too(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await stage.worker()
    await stage.ended(await stage.ask(C, "fail 429"))

    [told] = lines(caplog)
    assert "spoke_ms" in told
    assert "first_delta_ms" not in told
