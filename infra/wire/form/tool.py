"""The tool by which a model gives an answer in a form. Pure.

A model that is asked for JSON in words may write something around it. A tool's input is always
JSON, and the model knows its schema. So the answer is the input of a call of this tool.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from infra.wire.options import AnswerForm

FORM_TOOL = "give_answer"
"""Its name, as the model sees it, perhaps behind a prefix."""
TRIES = 4
"""How often a model may give an answer that does not fit, or none at all."""
WISH = f"[Finish this turn by calling `{FORM_TOOL}` with your final answer.]"
"""What is added to a prompt, because a description alone is easily forgotten."""
REMINDER = (
    f"[You have not given your answer yet. Call the tool {FORM_TOOL} now, with the whole answer as "
    "its input. What you write outside of it is not seen.]"
)

_INSIDE = "answer"
_KEY = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
"""What the Messages API accepts as the name of a property of a tool's input."""
_HOISTED = ("$defs", "definitions")


def tool_description(form: AnswerForm) -> str:
    """What the model reads about the tool."""
    told = [
        "Gives your final answer to the user, as the input of this call. Do all other work first; "
        "then call this exactly once, as the last thing you do. A program reads the answer: what "
        "you write outside of this call is not seen."
    ]
    told.append(f"The answer's name is `{form.name}`.")
    if form.description:
        told.append(form.description)
    if form.schema_text is None:
        told.append("The input is any JSON object that answers the user.")
    return " ".join(told)


def input_schema(form: AnswerForm) -> dict[str, Any]:
    """The schema of its input: the form's, or an object with the answer inside it, where the
    Messages API would refuse the names of the form's properties."""
    if form.schema_text is None:
        return {"type": "object", "additionalProperties": True}
    schema: dict[str, Any] = json.loads(form.schema_text)
    if not _is_wrapped(schema):
        return schema
    inside = {name: value for name, value in schema.items() if name not in _HOISTED}
    return {
        "type": "object",
        "properties": {_INSIDE: inside},
        "required": [_INSIDE],
        "additionalProperties": False,
        **{name: schema[name] for name in _HOISTED if name in schema},
    }


def answer_in(form: AnswerForm, given: Mapping[str, Any]) -> object:
    """The answer in a call's input."""
    is_alone = list(given) == [_INSIDE]
    if is_alone and form.schema_text and _is_wrapped(json.loads(form.schema_text)):
        return given[_INSIDE]
    return given


def _is_wrapped(schema: Mapping[str, Any]) -> bool:
    return not all(_KEY.fullmatch(name) for name in schema.get("properties", ()))
