"""What a side request's effort becomes, by the kind of its model."""

from __future__ import annotations

from typing import Any

import pytest

from infra.wire.options import AnswerForm, Effort, TurnOptions
from worker.side.thinking import thinking_of, thinking_room

OLD, NEW, OLDEST = "claude-sonnet-4-5-20250929", "claude-opus-5-5", "claude-3-5-haiku-20241022"


def budget(tokens: int) -> dict[str, Any]:
    return {"thinking": {"type": "enabled", "budget_tokens": tokens}}


def level(name: str) -> dict[str, Any]:
    return {"output_config": {"effort": name}}


ADAPTIVE = {"thinking": {"type": "adaptive"}}


@pytest.mark.parametrize(
    ("model", "effort", "fields"),
    [
        (OLD, None, {}),
        (OLD, Effort.NONE, {}),
        (OLD, Effort.MINIMAL, budget(1024)),
        (OLD, Effort.HIGH, budget(20_000)),
        ("claude-opus-4-20250514", Effort.LOW, budget(4096)),
        ("claude-3-7-sonnet-20250219", Effort.LOW, budget(4096)),
        (NEW, None, {}),
        (NEW, Effort.NONE, level("low")),
        (NEW, Effort.MINIMAL, level("low") | ADAPTIVE),
        (NEW, Effort.MAX, level("high") | ADAPTIVE),
        ("claude-opus-4-6", Effort.MEDIUM, level("medium") | ADAPTIVE),
        (OLDEST, Effort.HIGH, {}),
    ],
)
def test_older_models_get_a_budget_and_newer_ones_a_level(
    model: str, effort: Effort | None, fields: dict[str, Any]
) -> None:
    assert thinking_of(model, TurnOptions(effort=effort), left_tokens=None) == fields


@pytest.mark.parametrize(("model", "fields"), [(OLD, {}), (NEW, level("high"))])
def test_nothing_is_thought_before_a_call_that_has_to_be_made(
    model: str, fields: dict[str, Any]
) -> None:
    options = TurnOptions(effort=Effort.HIGH, answer_form=AnswerForm())
    assert thinking_of(model, options, left_tokens=None) == fields


def test_it_costs_no_more_than_what_is_left() -> None:
    options = TurnOptions(effort=Effort.HIGH)
    assert thinking_of(OLD, options, left_tokens=2000) == budget(2000)
    assert thinking_of(OLD, options, left_tokens=1000) == {}, "less than the least"


def test_the_limit_of_an_answer_has_room_for_it() -> None:
    assert thinking_room({}) == 0
    assert thinking_room(level("low")) == 0
    assert thinking_room(budget(4096)) == 4096
    assert thinking_room(ADAPTIVE) > 10_000
