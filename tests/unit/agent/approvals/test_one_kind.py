"""What is asked at once is of one kind, and one word of the user means one thing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.approvals.approvals import TurnApprovals
from agent.approvals.plans import PLAN_TOOL
from agent.asked_kind import OTHERWISE_ASKED, AskedKind
from agent.cli.offers import HOLD, OfferedCall
from agent.memory.notes import UserDecisions
from agent.questions import UserQuestions
from infra.wire.agents.permissions import Permissions
from infra.wire.history.paired import QUESTION_TOOL

PUSH = OfferedCall("push", "Bash", {"command": "git push"})
QUESTION = OfferedCall(
    "ask",
    QUESTION_TOOL,
    {"questions": [{"question": "Go on?", "options": [{"label": "No, leave it"}]}]},
)
PLAN = OfferedCall("plan", PLAN_TOOL, {"plan": "Push it."})
FETCH = OfferedCall("fetch", "WebFetch", {"url": "https://a.example/"})


class Turn:
    """What one turn may ask."""

    def __init__(self, mode: Any = "default") -> None:
        kind = AskedKind()
        self.questions = UserQuestions(are_allowed=True, kind=kind)
        self.approvals = TurnApprovals(
            Permissions(mode=mode, ask=("Bash(git push:*)", "WebFetch")),
            workspace=Path("/workspace"),
            notes=UserDecisions(),
            can_ask=True,
            kind=kind,
        )

    def ask(self, call: OfferedCall) -> object:
        """What becomes of a call: None or HOLD if it is open, otherwise what the model reads."""
        for offer in (*self.questions.offers, *self.approvals.offers):
            if offer.name == call.name:
                reply = offer.judge(call)
                return reply.text if reply else None
        return self.approvals.gate(call, False)


@pytest.mark.parametrize(
    ("mode", "first", "second"),
    [
        ("default", QUESTION, PUSH),
        ("default", PUSH, QUESTION),
        ("plan", PLAN, FETCH),
        ("plan", FETCH, PLAN),
        ("plan", QUESTION, PLAN),
    ],
)
def test_only_one_kind_is_asked_at_once(mode: str, first: OfferedCall, second: OfferedCall) -> None:
    turn = Turn(mode)
    assert turn.ask(first) in (None, HOLD)
    assert turn.ask(second) == OTHERWISE_ASKED


def test_calls_may_ask_beside_one_another() -> None:
    turn = Turn()
    assert turn.ask(PUSH) is HOLD
    assert turn.ask(FETCH) is HOLD


@pytest.mark.parametrize("beside", [QUESTION, PLAN])
@pytest.mark.parametrize("words", ["1", "yes", "2"])
def test_no_word_for_something_else_approves_a_call(beside: OfferedCall, words: str) -> None:
    """Both may stand in a transcript, no matter who has written it."""
    turn = Turn("plan")
    turn.approvals.answered([{"type": "text", "text": words}], [beside, FETCH])
    assert turn.approvals.to_make == []
    assert turn.approvals.new_notes == UserDecisions()


def test_a_program_that_answers_each_by_its_id_is_understood() -> None:
    turn = Turn()
    said = [
        {"type": "tool_result", "tool_use_id": "ask", "content": "1"},
        {"type": "tool_result", "tool_use_id": "push", "content": "yes"},
    ]
    turn.approvals.answered(said, [QUESTION, PUSH])
    assert [call.input for call in turn.approvals.to_make] == [PUSH.input]
