"""What becomes of turns nobody works on, and of containers found on a host."""

from __future__ import annotations

import pytest

from infra.store.conversations.conversations import ConversationRecord
from infra.store.turns.turns import OpenTurnRef
from infra.wire.ids import ConversationKey, Fence, HostId, TenantId, TurnId, WorkerId
from infra.wire.states import ConversationState, TurnState
from worker.hosts.host import Container, ContainerId
from worker.placement.sweeping import Fate, Sweep, container_fate, sweep

C = ConversationKey("c" * 24)
T, OTHER_T = TurnId("turn_1"), TurnId("turn_2")
ME, SIBLING = WorkerId("host-1-a"), WorkerId("host-1-b")
HERE, THERE = HostId("host-1"), HostId("host-2")


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
