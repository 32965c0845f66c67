"""Decides how a claimed turn continues: started, read on, or ended. Pure."""

from __future__ import annotations

from enum import StrEnum

from infra.wire.ids import TurnId
from infra.wire.states import TurnState


class Course(StrEnum):
    """What to do with a turn that this worker has claimed."""

    START = "start"
    """Give it to the agent."""
    REPLAY = "replay"
    """The agent already has it: read on after the last logged event."""
    END = "end"
    """It had begun and cannot go on: end it visibly."""


def course_before_container(*, state: TurnState, seq: int) -> Course:
    """For a turn whose conversation has no container here.

    A turn that was claimed but not started may start again (the claim counted the attempt). One
    that was running has lost its agent, and its tools may have had effects.
    """
    return Course.START if state is TurnState.CLAIMED and seq == 0 else Course.END


def course_with_agent(*, turn: TurnId, agent_turn: TurnId | None, last_n: int) -> Course:
    """For a turn whose agent answers; `agent_turn` is the turn that the agent reports.

    The agent keeps a turn until its end is acknowledged. If it does not know this turn, and no
    event of the turn was seen, it never got it, and starting it is safe.
    """
    if agent_turn == turn:
        return Course.REPLAY
    return Course.START if last_n == 0 else Course.END
