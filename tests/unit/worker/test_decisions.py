"""The worker's decisions, one by one."""

from __future__ import annotations

import pytest

from infra.store.conversations import ConversationRecord
from infra.store.turns import OpenTurnRef
from infra.wire.endings import declared_end, interrupted_end
from infra.wire.errors import ErrorCode
from infra.wire.events import TurnEnded, TurnError, Usage
from infra.wire.gateway import TurnMeter, UpstreamError
from infra.wire.ids import ConversationKey, Fence, HostId, TenantId, TurnId, WorkerId
from infra.wire.link import InterruptReason
from infra.wire.states import CONVERSATION_TRANSITIONS, ConversationState, TurnState
from worker.conversations.recorded_state import steps
from worker.hosts.capacity import memory_needed_mb, slots_for
from worker.hosts.host import Container, ContainerExit, ContainerId
from worker.placement.sweeping import Fate, Sweep, container_fate, sweep
from worker.turns.course import Course, course_before_container, course_with_agent
from worker.turns.endings import exit_end, settled_end

C = ConversationKey("c" * 24)
T, OTHER_T = TurnId("turn_1"), TurnId("turn_2")
ME, SIBLING = WorkerId("host-1-a"), WorkerId("host-1-b")
HERE, THERE = HostId("host-1"), HostId("host-2")
NO_METER = TurnMeter()


# Ends


@pytest.mark.parametrize("reason", InterruptReason)
def test_a_turn_we_interrupted_ends_for_our_reason(reason: InterruptReason) -> None:
    said = TurnEnded(
        state=TurnState.FAILED, error=TurnError(code=ErrorCode.UPSTREAM_ERROR, message="x")
    )
    end = settled_end(said, interrupted=reason, meter=NO_METER)
    assert (end.state, end.error) == (interrupted_end(reason).state, interrupted_end(reason).error)


def test_an_answer_that_was_complete_before_the_interrupt_stays_done() -> None:
    end = settled_end(
        TurnEnded(state=TurnState.DONE), interrupted=InterruptReason.CANCELLED, meter=NO_METER
    )
    assert end.state is TurnState.DONE


def test_an_end_with_nothing_to_add_is_passed_on_as_it_is() -> None:
    said = TurnEnded(state=TurnState.DONE, usage=Usage(input_tokens=1))
    assert settled_end(said, interrupted=None, meter=NO_METER) is said


def test_the_books_know_more_of_a_turns_usage_than_its_agent() -> None:
    """It told 66 tokens of a turn whose sub-agents had used 6,600 more."""
    said = TurnEnded(state=TurnState.DONE, usage=Usage(input_tokens=66))
    used = Usage(input_tokens=6666, output_tokens=4444)
    assert settled_end(said, interrupted=None, meter=NO_METER, used=used).usage == used


def test_the_agents_own_retry_after_is_not_overwritten() -> None:
    said = TurnEnded(
        state=TurnState.FAILED,
        error=TurnError(code=ErrorCode.RATE_LIMITED, message="x", retry_after_s=3),
    )
    meter = TurnMeter(last_error=UpstreamError(status=429, retry_after_s=60))
    end = settled_end(said, interrupted=None, meter=meter, used=meter.usage)
    assert end.error is not None
    assert end.error.retry_after_s == 3


def test_a_done_turn_gets_no_error_from_an_upstream_error_it_survived() -> None:
    meter = TurnMeter(last_error=UpstreamError(status=529, retry_after_s=5))
    end = settled_end(
        TurnEnded(state=TurnState.DONE), interrupted=None, meter=meter, used=meter.usage
    )
    assert end.error is None


@pytest.mark.parametrize(
    ("is_oom", "code"), [(True, ErrorCode.OUT_OF_MEMORY), (False, ErrorCode.CONTAINER_LOST)]
)
def test_an_exit_tells_why_the_turn_failed(is_oom: bool, code: ErrorCode) -> None:
    end = exit_end(ContainerExit(ContainerId("x"), C, 137, is_oom))
    assert end.error is not None
    assert end.error.code is code


@pytest.mark.parametrize("reason", InterruptReason)
def test_an_error_is_set_exactly_when_the_end_is_a_failure(reason: InterruptReason) -> None:
    end = interrupted_end(reason)
    assert (end.error is None) is (end.state is TurnState.CANCELLED)


# Courses


@pytest.mark.parametrize(
    ("state", "seq", "course"),
    [
        (TurnState.CLAIMED, 0, Course.START),
        (TurnState.RUNNING, 0, Course.END),
        (TurnState.RUNNING, 5, Course.END),
    ],
)
def test_without_a_container_only_an_untouched_turn_starts(
    state: TurnState, seq: int, course: Course
) -> None:
    assert course_before_container(state=state, seq=seq) is course


@pytest.mark.parametrize(
    ("agent_turn", "last_n", "course"),
    [
        (T, 0, Course.REPLAY),
        (T, 7, Course.REPLAY),
        (None, 0, Course.START),
        (OTHER_T, 0, Course.START),
        (None, 7, Course.END),
        (OTHER_T, 7, Course.END),
    ],
)
def test_the_agent_says_whether_it_has_the_turn(
    agent_turn: TurnId | None, last_n: int, course: Course
) -> None:
    assert course_with_agent(turn=T, agent_turn=agent_turn, last_n=last_n) is course


# Sweeps


def ref(
    state: TurnState,
    *,
    owner: WorkerId | None = None,
    age_s: float = 3.0,
    unowned_s: float = 0.0,
    is_left: bool = False,
) -> OpenTurnRef:
    return OpenTurnRef(
        T, C, state, owner, int(age_s * 1000), unowned_ms=int(unowned_s * 1000), is_left=is_left
    )


def decide(
    found: OpenTurnRef,
    *,
    turn_host: HostId | None = None,
    hosts_alive: frozenset[HostId] = frozenset({HERE}),
) -> Sweep:
    return sweep(
        found,
        me=ME,
        my_host=HERE,
        turn_host=turn_host,
        hosts_alive=hosts_alive,
        host_patience_s=8,
        successor_patience_s=30,
        queue_timeout_s=300,
    )


def test_a_queued_turn_is_offered_again() -> None:
    assert decide(ref(TurnState.QUEUED)) is Sweep.HINT
    assert decide(ref(TurnState.QUEUED, owner=SIBLING)) is Sweep.HINT
    assert decide(ref(TurnState.QUEUED, owner=ME)) is Sweep.PLACE


def test_a_queued_turn_expires_after_its_time_whoever_owns_the_conversation() -> None:
    for owner in (None, ME, SIBLING):
        assert decide(ref(TurnState.QUEUED, owner=owner, age_s=301)) is Sweep.EXPIRE


def test_a_begun_turn_never_expires_by_age() -> None:
    assert decide(ref(TurnState.RUNNING, age_s=9999), turn_host=HERE) is Sweep.PLACE


@pytest.mark.parametrize("state", [TurnState.CLAIMED, TurnState.RUNNING])
def test_a_begun_turn_without_owner_is_adopted_on_its_host(state: TurnState) -> None:
    assert decide(ref(state), turn_host=HERE) is Sweep.PLACE
    assert decide(ref(state, owner=SIBLING), turn_host=HERE) is Sweep.WAIT


def test_another_hosts_turn_is_left_to_that_host_while_it_lives() -> None:
    both = frozenset({HERE, THERE})
    assert decide(ref(TurnState.RUNNING), turn_host=THERE, hosts_alive=both) is Sweep.TELL_HOST


def test_a_dead_hosts_turn_is_ended_after_some_patience() -> None:
    assert decide(ref(TurnState.RUNNING, unowned_s=7.9), turn_host=THERE) is Sweep.WAIT
    assert decide(ref(TurnState.RUNNING, unowned_s=8.0), turn_host=THERE) is Sweep.END_HERE


def test_a_host_whose_worker_left_in_order_gets_more_of_it() -> None:
    waits = ref(TurnState.RUNNING, unowned_s=29.9, is_left=True)
    assert decide(waits, turn_host=THERE) is Sweep.WAIT
    over = ref(TurnState.RUNNING, unowned_s=30.0, is_left=True)
    assert decide(over, turn_host=THERE) is Sweep.END_HERE


# Containers


def container(id: str = "mine", *, fence: int = 1) -> Container:
    return Container(ContainerId(id), C, Fence(fence), True, 0)


def record(
    *,
    owner: WorkerId | None = None,
    host: HostId | None = HERE,
    container: str | None = "mine",
    fence: int = 1,
    state: ConversationState = ConversationState.WARM,
) -> ConversationRecord:
    return ConversationRecord(
        conversation=C,
        tenant=TenantId("t"),
        label="",
        state=state,
        owner=owner,
        host=host,
        fence=Fence(fence),
        container=container,
        sdk_session=None,
        turn=None,
        turns=1,
        created_ms=0,
        last_active_ms=0,
        idle_at_ms=None,
    )


def fate(
    found: Container,
    known: ConversationRecord | None,
    *,
    is_mine: bool = False,
    mine: str | None = None,
) -> Fate:
    return container_fate(
        found,
        known,
        my_host=HERE,
        is_mine=is_mine,
        mine=ContainerId(mine) if mine else None,
        others_alive=frozenset({SIBLING}),
    )


def test_an_owned_container_is_kept_and_a_second_one_is_not() -> None:
    assert fate(container(), None, is_mine=True, mine="mine") is Fate.KEEP
    assert fate(container(), None, is_mine=True, mine=None) is Fate.KEEP
    assert fate(container("old"), None, is_mine=True, mine="mine") is Fate.ORPHAN


def test_a_siblings_container_is_kept() -> None:
    assert fate(container(), record(owner=SIBLING)) is Fate.KEEP
    assert fate(container("old"), record(owner=SIBLING)) is Fate.ORPHAN


def test_a_container_without_owner_is_adopted() -> None:
    assert fate(container(), record(owner=None)) is Fate.ADOPT
    assert fate(container(), record(owner=WorkerId("dead"))) is Fate.ADOPT
    assert fate(container(), record(owner=None, container=None)) is Fate.ADOPT


def test_a_container_older_than_a_cold_record_is_left_behind() -> None:
    """Another host's sweep made it cold while its own worker was away; it stayed for a minute."""
    cold = ConversationState.COLD
    newer = record(owner=None, container=None, state=cold, fence=2)
    assert fate(container(), newer) is Fate.LEFT_BEHIND
    assert fate(container(fence=2), newer) is Fate.ADOPT
    assert fate(container(), record(owner=None, fence=2)) is Fate.ADOPT


def test_a_container_whose_conversation_moved_or_is_forgotten_is_an_orphan() -> None:
    assert fate(container(), None) is Fate.ORPHAN
    assert fate(container(), record(host=THERE)) is Fate.ORPHAN
    assert fate(container("old"), record(owner=None)) is Fate.ORPHAN


def test_a_container_that_another_took_the_place_of_is_left_behind() -> None:
    assert fate(container(), record(host=THERE, fence=2)) is Fate.LEFT_BEHIND
    assert fate(container("old"), record(owner=None, fence=2)) is Fate.LEFT_BEHIND
    assert fate(container("old"), record(owner=SIBLING, fence=2)) is Fate.LEFT_BEHIND
    assert fate(container(), record(owner=None, fence=2)) is Fate.ADOPT


# Slots and steps


@pytest.mark.parametrize(
    ("configured", "machine_mb", "container_mb", "slots"),
    [(7, 1024, 1024, 7), (0, 24_000, 1024, 90), (0, 24_000, 4096, 23), (0, 256, 1024, 1)],
)
def test_slots_follow_the_setting_else_the_memory(
    configured: int, machine_mb: int, container_mb: int, slots: int
) -> None:
    found = slots_for(configured=configured, machine_mb=machine_mb, container_mb=container_mb)
    assert found == slots


@pytest.mark.parametrize("old", ConversationState)
@pytest.mark.parametrize("new", [s for s in ConversationState if s is not ConversationState.LOST])
def test_every_state_is_reached_by_legal_steps(
    old: ConversationState, new: ConversationState
) -> None:
    at = old
    for state in steps(old, new):
        assert state in CONVERSATION_TRANSITIONS[at]
        assert state is not ConversationState.LOST
        at = state
    assert at is new


def test_only_what_has_a_container_can_be_lost() -> None:
    assert steps(ConversationState.WARM, ConversationState.LOST) == (ConversationState.LOST,)


def test_every_declared_end_has_words_without_names_or_paths() -> None:
    for code in (ErrorCode.OUT_OF_MEMORY, ErrorCode.CONTAINER_LOST, ErrorCode.INTERNAL):
        end = declared_end(code)
        assert end.error is not None
        assert end.error.message.endswith(".")
        assert "/" not in end.error.message


@pytest.mark.parametrize(
    ("machine_mb", "needed_mb"), [(16_000, 1280), (2560, 1280), (2000, 1000), (1000, 500)]
)
def test_memory_for_one_agent_and_a_reserve_is_asked_for_but_never_the_whole_machine(
    machine_mb: int, needed_mb: int
) -> None:
    needed = memory_needed_mb(container_mb=1024, reserve_mb=256, machine_mb=machine_mb)
    assert needed == needed_mb
