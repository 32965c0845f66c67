"""How a claimed turn goes on, fact by fact."""

from __future__ import annotations

import pytest

from infra.wire.ids import TurnId
from infra.wire.states import TurnState
from worker.turns.course import Course, course_before_container, course_with_agent

T, OTHER_T = TurnId("turn_1"), TurnId("turn_2")


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
