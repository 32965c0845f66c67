"""Effort, verbosity and stop sequences in a request."""

from __future__ import annotations

import json
from typing import Any

import pytest

from api.chat.options.turn_options import read_turn_options
from api.chat.request import read_chat_request
from infra.wire.errors import RequestRefused
from infra.wire.options import Effort, TurnOptions, Verbosity


def options_of(**fields: Any) -> TurnOptions:
    raw = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}
    return read_turn_options(read_chat_request(json.dumps(raw).encode()), has_tools=True)


@pytest.mark.parametrize("value", list(Effort))
def test_each_effort_of_openais_is_read(value: Effort) -> None:
    assert options_of(reasoning_effort=value).effort is value
    assert options_of(reasoning={"effort": value}).effort is value


def test_other_ways_to_say_it() -> None:
    assert options_of(reasoning={"enabled": False}).effort is Effort.NONE
    assert options_of(reasoning=None, reasoning_effort=None).effort is None
    assert options_of(verbosity="low").verbosity is Verbosity.LOW
    assert options_of(stop="x").stop == ("x",)
    assert options_of(stop=["x", "\n"]).stop == ("x", "\n")
    assert options_of(temperature=0.5).sampling.temperature == 0.5


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"reasoning_effort": "much"}, "reasoning_effort"),
        ({"reasoning_effort": ""}, "reasoning_effort"),
        ({"reasoning": {"effort": 3}}, "reasoning.effort"),
        ({"reasoning": "high"}, "reasoning"),
        ({"verbosity": "mute"}, "verbosity"),
        ({"stop": list("abcde")}, "stop"),
        ({"stop": ["a", ""]}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stop": "x" * 257}, "stop"),
        ({"stop": [1]}, "stop[0]"),
    ],
)
def test_anything_else_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestRefused) as refused:
        options_of(**fields)
    assert refused.value.param == param
