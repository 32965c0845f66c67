"""The legal ways between the states of a conversation's record."""

from __future__ import annotations

import pytest

from infra.wire.states import CONVERSATION_TRANSITIONS, ConversationState
from worker.conversations.recorded_state import steps


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
