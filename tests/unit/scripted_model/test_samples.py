"""The scripted model gives answers in a form."""

from __future__ import annotations

import json
from typing import Any

import pytest

from infra.scripted_model.asked import Asked
from infra.scripted_model.replies import Reply, Stop, ToolUse
from infra.scripted_model.samples import FORM_TOOL, sample_of
from infra.scripted_model.script import answer
from infra.wire.form.checks import FormCheck
from infra.wire.options import AnswerForm

TEXT = {"type": "string"}
NODE = {
    "type": "object",
    "properties": {"name": TEXT, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
    "required": ["name", "next"],
}


@pytest.mark.parametrize(
    "properties",
    [
        {"a": TEXT, "b": {"type": "integer", "minimum": 3}, "c": {"type": "boolean"}},
        {"a": {"enum": ["red", "blue"]}, "b": {"const": 7}, "c": {"type": ["string", "null"]}},
        {"a": {"type": "array", "items": TEXT, "minItems": 2}},
        {"a": {"type": "string", "format": "date-time"}, "b": {"type": "string", "minLength": 20}},
        {"a": {"$ref": "#/$defs/node"}},
        {},
    ],
)
def test_a_sample_fits_its_schema(properties: dict[str, Any]) -> None:
    schema = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "$defs": {"node": NODE},
    }
    form = AnswerForm(schema_text=json.dumps(schema))
    assert FormCheck(form).fault_of(sample_of(schema)) is None


def said(prompt: str, **more: Any) -> object:
    schema = {"type": "object", "properties": {"a": TEXT}, "required": ["a"]}
    body = {
        "messages": [{"role": "user", "content": prompt}],
        "tools": [{"name": f"mcp__x__{FORM_TOOL}", "input_schema": schema}],
    }
    return answer(Asked(body | more, {}, lambda: 1))


def test_it_complies_when_told_to_and_when_it_has_no_choice() -> None:
    call = Reply((ToolUse(f"mcp__x__{FORM_TOOL}", {"a": "sample"}),), stop=Stop.TOOL_USE)
    assert said("comply") == call
    assert said("Any words", tool_choice={"type": "tool", "name": FORM_TOOL}) == call
    assert said("Any words") != call
    assert said('json {"a": 1}') == Reply(
        (ToolUse(f"mcp__x__{FORM_TOOL}", {"a": 1}),), stop=Stop.TOOL_USE
    )
