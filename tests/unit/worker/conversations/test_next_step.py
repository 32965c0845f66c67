"""What a conversation's actor does next, fact by fact."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain, combinations, product

import pytest

from infra.wire.ids import ConversationKey, Fence, TurnId
from infra.wire.states import ConversationState
from worker.conversations.next_step import Facts, Inheritance, Left, Step, inherit, next_step
from worker.conversations.phases import OF_THE_IDLE, Departure, Wish
from worker.hosts.host import Container, ContainerId

C = ConversationKey("c" * 24)
ENDS = {Step.HAND_OVER, Step.GO_COLD, Step.REST}

WISHES = list(chain.from_iterable(combinations(Wish, n) for n in range(len(Wish) + 1)))
EVERYTHING = [
    Facts(frozenset(wishes), *flags)
    for wishes, flags in product(WISHES, product([True, False], repeat=4))
]


def facts(*wishes: Wish, container: bool = True, lost: bool = False, reaped: bool = False) -> Facts:
    return Facts(
        frozenset(wishes), has_container=container, is_container_lost=lost, is_reaped=reaped
    )


def box(name: str, *, is_running: bool = True) -> Container:
    return Container(ContainerId(name), C, Fence(1), is_running, created_ms=0)


@pytest.mark.parametrize(
    ("known", "step"),
    [
        (facts(), Step.REST),
        (facts(container=False), Step.GO_COLD),
        (facts(Wish.TURN), Step.CLAIM),
        (facts(Wish.TURN, container=False), Step.CLAIM),
        # A turn makes void what is wished of an idle container, and needs no good one.
        (facts(Wish.TURN, Wish.ROOM, Wish.REAP), Step.CLAIM),
        (facts(Wish.TURN, lost=True), Step.CLAIM),
        (facts(Wish.ROOM), Step.STOP),
        (facts(Wish.REAP), Step.ASK_TO_REAP),
        (facts(Wish.REAP, Wish.ROOM), Step.STOP),
        (facts(Wish.HIBERNATE), Step.ASK_TO_HIBERNATE),
        (facts(Wish.HIBERNATE, Wish.REAP), Step.ASK_TO_HIBERNATE),
        (facts(Wish.HIBERNATE, Wish.TURN), Step.CLAIM),
        (facts(Wish.HIBERNATE, Wish.ROOM), Step.STOP),
        (facts(Wish.HIBERNATE, container=False), Step.GO_COLD),
        (facts(Wish.ROOM, container=False), Step.GO_COLD),
        (facts(lost=True), Step.STOP),
        (facts(lost=True, container=False), Step.GO_COLD),
        # Retiring leaves what waits to others.
        (facts(Wish.RETIRE), Step.STOP),
        (facts(Wish.RETIRE, Wish.TURN), Step.STOP),
        (facts(Wish.RETIRE, Wish.TURN, container=False), Step.GO_COLD),
        # So does handing over, and that leaves the container too.
        (facts(Wish.DRAIN), Step.HAND_OVER),
        (facts(Wish.DRAIN, Wish.TURN), Step.HAND_OVER),
        (facts(Wish.DRAIN, lost=True), Step.HAND_OVER),
        (facts(Wish.DRAIN, Wish.RETIRE, container=False), Step.HAND_OVER),
        # What the store was told is done, whatever has come since.
        (facts(reaped=True), Step.STOP),
        (facts(Wish.TURN, reaped=True), Step.STOP),
        (facts(Wish.DRAIN, reaped=True), Step.STOP),
        (facts(Wish.TURN, reaped=True, container=False), Step.CLAIM),
        # A place that is left to others is left.
        (replace(facts(Wish.TURN), gives_way=True), Step.STOP),
        (replace(facts(), gives_way=True), Step.STOP),
        (replace(facts(Wish.TURN, container=False), gives_way=True), Step.GO_COLD),
    ],
)
def test_the_table(known: Facts, step: Step) -> None:
    assert next_step(known) is step


def test_no_turn_is_claimed_by_one_that_goes() -> None:
    goes = {Wish.DRAIN, Wish.RETIRE}
    for known in EVERYTHING:
        if next_step(known) is Step.CLAIM:
            assert Wish.TURN in known.wishes
            assert not known.wishes & goes
            assert not known.gives_way


def test_only_a_good_container_that_nobody_wants_anything_of_rests() -> None:
    for known in EVERYTHING:
        if next_step(known) is Step.REST:
            assert known.wishes <= {Wish.LEAVE}, "anybody who wishes something wakes it"
            assert known == Facts(known.wishes, has_container=True)


def test_a_container_is_stopped_and_kept_only_where_there_is_one() -> None:
    for known in EVERYTHING:
        step = next_step(known)
        assert known.has_container or step not in (
            Step.STOP,
            Step.ASK_TO_REAP,
            Step.ASK_TO_HIBERNATE,
            Step.REST,
        )
        assert not known.has_container or step is not Step.GO_COLD, "it would be nobody's"


def test_an_order_to_leave_at_once_is_no_matter_of_the_next_step() -> None:
    for known in EVERYTHING:
        assert next_step(known) is next_step(replace(known, wishes=known.wishes - {Wish.LEAVE}))


def carried_out(step: Step, known: Facts, *, agrees: bool) -> Facts:
    """What is known after a step, where no turn waits. `agrees`: the store lets it reap."""
    match step:
        case Step.CLAIM:
            return replace(known, wishes=known.wishes - {Wish.TURN})
        case Step.ASK_TO_REAP:
            return replace(known, wishes=known.wishes - {Wish.REAP}, is_reaped=agrees)
        case Step.ASK_TO_HIBERNATE:
            return replace(known, wishes=known.wishes - {Wish.HIBERNATE}, is_reaped=agrees)
        case Step.STOP:
            left = known.wishes - OF_THE_IDLE
            return Facts(left, has_container=False, gives_way=known.gives_way)
        case _:
            raise AssertionError(step)


@pytest.mark.parametrize("agrees", [True, False])
def test_whatever_is_known_an_actor_comes_to_rest_or_leaves(agrees: bool) -> None:
    """Each step changes what the next one is decided by: none is taken again for nothing."""
    for known in EVERYTHING:
        taken = list[Step]()
        while (step := next_step(known)) not in ENDS:
            assert step not in taken, f"{step} again: {taken}"
            taken.append(step)
            known = carried_out(step, known, agrees=agrees)


# At the beginning


@pytest.mark.parametrize("state", [s for s in ConversationState if s != ConversationState.STOPPING])
def test_the_running_container_on_record_is_gone_on_with(state: ConversationState) -> None:
    ours, dead, stray = box("ours"), box("dead", is_running=False), box("stray")
    left = inherit([dead, ours, stray], recorded="ours", state=state)
    assert left == Inheritance(ours, is_usable=True, others=(dead, stray))


@pytest.mark.parametrize(
    ("found", "recorded", "state"),
    [
        ([box("ours", is_running=False)], "ours", ConversationState.WARM),
        ([box("other")], "ours", ConversationState.WARM),
        ([box("other")], None, ConversationState.STARTING),
        ([box("ours")], "ours", ConversationState.STOPPING),
        ([box("other"), box("more")], "ours", ConversationState.BUSY),
    ],
    ids=["ended", "of a move", "not on record", "to be stopped", "two of them"],
)
def test_any_other_container_is_only_kept_to_be_stopped(
    found: list[Container], recorded: str | None, state: ConversationState
) -> None:
    left = inherit(found, recorded=recorded, state=state)
    assert left == Inheritance(found[0], is_usable=False, others=tuple(found[1:]))


def test_where_nothing_was_found_nothing_is_kept() -> None:
    left = inherit([], recorded="ours", state=ConversationState.BUSY)
    assert left == Inheritance(None, is_usable=False)


# At the end


@pytest.mark.parametrize("is_put_off", [True, False])
@pytest.mark.parametrize("how", Departure)
def test_a_place_is_for_others_unless_what_waits_would_fail_there_again(
    how: Departure, is_put_off: bool
) -> None:
    left = Left(how, is_put_off=is_put_off)
    assert left.makes_room is (how is not Departure.BROKEN and not is_put_off)


@pytest.mark.parametrize(
    ("how", "is_turn_wanted", "again"),
    [
        (Departure.COLD, True, True),
        (Departure.COLD, False, False),
        (Departure.LOST, True, True),
        (Departure.LOST, False, True),
        (Departure.HANDED_OVER, True, False),
        (Departure.HANDED_OVER, False, False),
        (Departure.BROKEN, True, False),
        (Departure.BROKEN, False, False),
    ],
)
def test_a_conversation_is_taken_again_that_was_not_meant_to_go(
    how: Departure, is_turn_wanted: bool, again: bool
) -> None:
    left = Left(how, waiting=TurnId("t"), is_turn_wanted=is_turn_wanted)
    assert left.is_to_be_taken_again is again


def test_a_conversation_that_has_simply_gone_cold_leaves_room_and_nothing_to_do() -> None:
    left = Left(Departure.COLD)
    assert left.makes_room
    assert not left.is_to_be_taken_again
    assert (left.waiting, left.container) == (None, None)
