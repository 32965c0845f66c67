"""The lives of turns and conversations, by their tables."""

from __future__ import annotations

import itertools

import pytest

from infra.wire.errors import IllegalTransition
from infra.wire.states import (
    CONVERSATION_TRANSITIONS,
    TURN_TRANSITIONS,
    ConversationState,
    TurnState,
    advance,
)

TERMINAL = {
    TurnState.DONE,
    TurnState.FAILED,
    TurnState.CANCELLED,
    TurnState.INTERRUPTED,
    TurnState.EXPIRED,
}


def test_every_state_has_its_row() -> None:
    assert set(TURN_TRANSITIONS) == set(TurnState)
    assert set(CONVERSATION_TRANSITIONS) == set(ConversationState)


def test_the_last_five_states_of_a_turn_are_terminal() -> None:
    assert {state for state in TurnState if state.is_terminal} == TERMINAL


def test_every_turn_can_end_and_every_state_can_be_reached() -> None:
    reached = {TurnState.QUEUED}
    while new := set().union(*(TURN_TRANSITIONS[state] for state in reached)) - reached:
        reached |= new
    assert reached == set(TurnState)


@pytest.mark.parametrize(("old", "new"), list(itertools.product(TurnState, TurnState)))
def test_a_turn_takes_only_steps_of_its_table(old: TurnState, new: TurnState) -> None:
    allowed = new in TURN_TRANSITIONS[old] or (old == new and old.is_terminal)
    if allowed:
        assert advance("turn", old, new, TURN_TRANSITIONS) is new
    else:
        with pytest.raises(IllegalTransition):
            advance("turn", old, new, TURN_TRANSITIONS)


def test_ending_twice_the_same_way_is_harmless_and_another_way_is_not() -> None:
    assert advance("t", TurnState.DONE, TurnState.DONE, TURN_TRANSITIONS) is TurnState.DONE
    with pytest.raises(IllegalTransition):
        advance("t", TurnState.DONE, TurnState.FAILED, TURN_TRANSITIONS)


def test_an_illegal_step_carries_the_story() -> None:
    with pytest.raises(IllegalTransition, match="queued -> claimed") as caught:
        advance(
            "turn x",
            TurnState.RUNNING,
            TurnState.QUEUED,
            TURN_TRANSITIONS,
            ["queued", "claimed", "running"],
        )
    assert caught.value.story == ("queued", "claimed", "running")


def test_a_conversation_may_be_lost_from_every_state_that_costs_something() -> None:
    for state in set(ConversationState) - {ConversationState.COLD, ConversationState.LOST}:
        assert ConversationState.LOST in CONVERSATION_TRANSITIONS[state]
