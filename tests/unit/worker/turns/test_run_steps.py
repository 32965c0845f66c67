"""What the run of a turn does next, fact by fact."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.runtime.identity import new_turn_id
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
from infra.wire.events import TurnEnded, TurnError
from infra.wire.gateway import GatewayFault, GatewayRefused
from infra.wire.ids import ConversationKey, Fence, ReplicaId, TenantId
from infra.wire.states import TurnState
from infra.wire.text.words import Case
from infra.wire.turns import Lane, OnDisconnect
from worker.gateway_client.client import CommandRefused
from worker.turns.phases import RUN_BEGINS, RUN_TRANSITIONS, RunPhase
from worker.turns.steps import (
    GAP_FRAMES_MAX,
    Ending,
    Gap,
    Heard,
    Stop,
    agents_ending,
    back_to_queue,
    declared_ending,
    failed_delivery,
    failed_start,
    first_phase,
    hear,
    memory_after,
    refused_ending,
    stop_in,
)

LOST = declared_end(ErrorCode.CONTAINER_LOST)
OUT_OF_MEMORY = declared_end(ErrorCode.OUT_OF_MEMORY)
DONE = TurnEnded(state=TurnState.DONE)
GIVEN = (RunPhase.ADOPTED, RunPhase.OPEN)

RECORD = TurnRecord(
    turn=new_turn_id(),
    conversation=ConversationKey("c" * 24),
    tenant=TenantId("t" * 20),
    replica=ReplicaId("api-1"),
    state=TurnState.CLAIMED,
    model="m",
    attempt=1,
    fence=Fence(1),
    seq=0,
    created_ms=0,
    sealed_key=None,
    key_expires_ms=0,
    on_disconnect=OnDisconnect.CANCEL,
    lane=Lane.AGENT,
    cancel=None,
)


def code_of(ending: Ending) -> ErrorCode | None:
    assert ending.end is not None
    return ending.end.error.code if ending.end.error else None


def refusal(fault: GatewayFault) -> CommandRefused:
    return CommandRefused(GatewayRefused(fault=fault, message="no"))


# Beginnings


@pytest.mark.parametrize("is_adoption", [True, False])
@pytest.mark.parametrize("state", TurnState)
def test_only_a_running_turn_that_is_taken_over_is_with_an_agent_already(
    state: TurnState, is_adoption: bool
) -> None:
    is_adopted = is_adoption and state is TurnState.RUNNING
    phase = first_phase(state=state, is_adoption=is_adoption)
    assert phase is (RunPhase.ADOPTED if is_adopted else RunPhase.PREPARING)
    assert phase in RUN_BEGINS


def test_every_phase_but_the_end_can_end_and_no_begin_is_come_back_to() -> None:
    for phase, following in RUN_TRANSITIONS.items():
        assert (RunPhase.ENDED in following) is (phase is not RunPhase.ENDED)
        assert not following & set(RUN_BEGINS)


# Interrupts


@pytest.mark.parametrize(
    ("phase", "stop"),
    [
        (RunPhase.PREPARING, Stop.END),
        (RunPhase.ADOPTED, Stop.TELL),
        (RunPhase.OPEN, Stop.TELL),
        (RunPhase.ENDED, Stop.NOTHING),
    ],
)
def test_a_turn_ends_at_once_only_where_no_agent_has_it(phase: RunPhase, stop: Stop) -> None:
    assert stop_in(phase) is stop


# Frames


@pytest.mark.parametrize(
    ("n", "is_ours", "gap", "heard", "after"),
    [
        (6, True, Gap(), Heard.TAKE, Gap()),
        (6, False, Gap(), Heard.SKIP, Gap()),
        (5, True, Gap(), Heard.SKIP, Gap()),
        (1, True, Gap(), Heard.SKIP, Gap()),
        (8, False, Gap(), Heard.SKIP, Gap()),
        (8, True, Gap(), Heard.ASK, Gap(5, 1)),
        (9, True, Gap(4, 77), Heard.ASK, Gap(5, 1)),
        (9, True, Gap(5, 1), Heard.WAIT, Gap(5, 2)),
        (9, True, Gap(5, GAP_FRAMES_MAX - 1), Heard.WAIT, Gap(5, GAP_FRAMES_MAX)),
        (9, True, Gap(5, GAP_FRAMES_MAX), Heard.GIVE_UP, Gap(5, GAP_FRAMES_MAX + 1)),
        (6, True, Gap(5, 9), Heard.TAKE, Gap(5, 9)),
    ],
)
def test_a_frame_is_taken_only_when_it_is_due(
    n: int, is_ours: bool, gap: Gap, heard: Heard, after: Gap
) -> None:
    assert hear(n, last_n=5, is_ours=is_ours, gap=gap) == (heard, after)


@given(st.lists(st.tuples(st.integers(1, 12), st.booleans()), max_size=60))
def test_whatever_comes_events_are_taken_once_in_order_and_a_gap_is_asked_for_once(
    frames: list[tuple[int, bool]],
) -> None:
    last_n, gap, asked = 0, Gap(), list[int]()
    for n, is_ours in frames:
        heard, gap = hear(n, last_n=last_n, is_ours=is_ours, gap=gap)
        if heard is Heard.TAKE:
            assert is_ours
            assert n == last_n + 1
            last_n = n
        elif heard is Heard.ASK:
            asked.append(last_n)
        elif heard is Heard.SKIP:
            assert not is_ours or n <= last_n
    assert len(asked) == len(set(asked))


# Ends


@pytest.mark.parametrize("code", [None, *ErrorCode])
def test_what_broke_an_agent_may_still_be_in_its_container(code: ErrorCode | None) -> None:
    error = TurnError(code=code, message="x") if code else None
    end = TurnEnded(state=TurnState.FAILED if error else TurnState.DONE, error=error)
    ending = agents_ending(end)
    is_sound = code not in (ErrorCode.AGENT_FAILED, ErrorCode.CONTAINER_FAILED)
    assert ending == Ending(end, is_agents=True, is_container_usable=is_sound)


def test_a_declared_end_leaves_the_container_to_the_next_turn_unless_it_says_otherwise() -> None:
    usable = Ending(LOST, is_agents=False, is_container_usable=True, is_counted=True)
    assert declared_ending(LOST) == usable
    assert declared_ending(LOST, usable=False) == replace(usable, is_container_usable=False)


def test_a_turn_that_goes_back_counts_as_a_start_unless_its_host_could_not_even_try() -> None:
    back = Ending(None, is_agents=False, is_container_usable=False, is_counted=True)
    assert back_to_queue() == back
    assert back_to_queue(is_counted=False) == replace(back, is_counted=False)


@pytest.mark.parametrize("end", [LOST, OUT_OF_MEMORY], ids=["lost", "oom"])
@pytest.mark.parametrize("attempt", range(1, ATTEMPTS_MAX + 1))
@pytest.mark.parametrize("seq", [0, 1])
@pytest.mark.parametrize("state", [TurnState.CLAIMED, TurnState.RUNNING])
@pytest.mark.parametrize("phase", [RunPhase.PREPARING, RunPhase.ADOPTED, RunPhase.OPEN])
def test_only_a_turn_of_which_nothing_can_have_happened_starts_afresh(
    phase: RunPhase, state: TurnState, seq: int, attempt: int, end: TurnEnded
) -> None:
    record = replace(RECORD, state=state, seq=seq, attempt=attempt)
    ending = failed_start(end, phase=phase, record=record)

    is_untouched = (phase, state, seq) == (RunPhase.PREPARING, TurnState.CLAIMED, 0)
    assert not ending.is_container_usable
    assert (ending.end is None) is (is_untouched and attempt < ATTEMPTS_MAX)
    if ending.end is None:
        assert ending.is_counted
    elif is_untouched and end is LOST:
        assert code_of(ending) is ErrorCode.CONTAINER_FAILED, "what never began ends as that"
    else:
        assert ending.end is end


@pytest.mark.parametrize("phase", [RunPhase.PREPARING, RunPhase.ADOPTED])
@pytest.mark.parametrize(
    ("error", "ending"),
    [
        (EngineFailed("full"), back_to_queue(is_counted=False)),
        (refusal(GatewayFault.KEY_NOT_OPENED), declared_ending(declared_end(Case.KEY_UNREADABLE))),
        (
            refusal(GatewayFault.NO_SESSION),
            declared_ending(declared_end(ErrorCode.CONTAINER_FAILED)),
        ),
        (
            AgentImageRefused("no such image"),
            declared_ending(declared_end(Case.AGENT_IMAGE), usable=False),
        ),
        (GatewayUnavailable("away"), declared_ending(declared_end(Case.GATEWAY_SILENT))),
        (
            RuntimeError("ours"),
            declared_ending(declared_end(ErrorCode.INTERNAL), usable=False),
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_fails_on_the_way_to_the_agent_ends_the_turn_for_its_reason(
    error: Exception, ending: Ending, phase: RunPhase
) -> None:
    assert failed_delivery(error, phase=phase, record=RECORD) == ending


@pytest.mark.parametrize("attempt", range(1, ATTEMPTS_MAX + 1))
@pytest.mark.parametrize("phase", [RunPhase.PREPARING, RunPhase.ADOPTED])
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ContainerFailed("x"), ErrorCode.CONTAINER_FAILED),
        (ContainerFailed("x", code=ErrorCode.OUT_OF_MEMORY), ErrorCode.OUT_OF_MEMORY),
        (AgentUnreachable("x"), ErrorCode.AGENT_FAILED),
    ],
)
def test_a_container_or_agent_that_fails_is_a_failed_start(
    error: Exception, code: ErrorCode, phase: RunPhase, attempt: int
) -> None:
    record = replace(RECORD, attempt=attempt)
    ending = failed_delivery(error, phase=phase, record=record)
    assert ending == failed_start(declared_end(code), phase=phase, record=record)


@pytest.mark.parametrize(
    ("said", "last_n", "code"),
    [
        (ErrorCode.TURN_RUNNING, 0, ErrorCode.CONTAINER_FAILED),
        (ErrorCode.TURN_RUNNING, 3, ErrorCode.AGENT_FAILED),
        (ErrorCode.LOG_LOST, 0, ErrorCode.LOG_LOST),
        (ErrorCode.LOG_LOST, 3, ErrorCode.LOG_LOST),
    ],
)
def test_a_refused_turn_fails_as_far_as_it_has_come(
    said: ErrorCode, last_n: int, code: ErrorCode
) -> None:
    ending = refused_ending(said, last_n=last_n)
    assert code_of(ending) is code
    assert not ending.is_container_usable


@pytest.mark.parametrize("phase", [RunPhase.PREPARING, RunPhase.ADOPTED, RunPhase.OPEN])
@pytest.mark.parametrize("ending", [declared_ending(LOST), back_to_queue()], ids=["end", "queue"])
def test_nobody_knows_what_an_agent_remembers_that_had_a_turn_and_did_not_end_it(
    phase: RunPhase, ending: Ending
) -> None:
    memory = memory_after(ending, ended_in=phase)
    assert memory is (Memory.UNKNOWN if phase in GIVEN else Memory.NOTHING)


@pytest.mark.parametrize("phase", [RunPhase.PREPARING, RunPhase.ADOPTED, RunPhase.OPEN])
@pytest.mark.parametrize("is_remembered", [True, False])
def test_an_agent_that_ended_its_turn_says_what_it_remembers(
    phase: RunPhase, is_remembered: bool
) -> None:
    end = DONE.model_copy(update={"is_remembered": is_remembered})
    memory = memory_after(agents_ending(end), ended_in=phase)
    assert memory is (Memory.TOLD if is_remembered else Memory.NOTHING)
