"""Reads `response_format`: the form that the answer must have. Pure."""

from __future__ import annotations

import json
import re
from typing import Any

from api.chat.options.schemas import check_schema
from api.chat.request import ChatRequest
from infra.wire.errors import RequestRefused
from infra.wire.options import AnswerForm

_FIELD = "response_format"
_NAMED = f"{_FIELD}.json_schema"
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_DESCRIPTION_MAX_CHARS = 4096


def read_answer_form(chat: ChatRequest) -> AnswerForm | None:
    """The form that the request asks for; None for text. Raises `RequestRefused`."""
    asked = chat.form
    match asked.get("type") if asked is not None else "text":
        case "text":
            return None
        case "json_object":
            return AnswerForm()
        case "json_schema":
            assert asked is not None
            return _named(asked.get("json_schema"))
        case _:
            raise RequestRefused(
                f"`{_FIELD}.type` must be one of text, json_object, json_schema.",
                param=f"{_FIELD}.type",
            )


def _named(told: object) -> AnswerForm:
    if not isinstance(told, dict):
        raise _wrong("", "must be an object")
    name, description = told.get("name"), told.get("description")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _wrong(".name", "must be 1 to 64 letters, digits, `_` and `-`")
    if description is not None and not isinstance(description, str):
        raise _wrong(".description", "must be a string")
    if description and len(description) > _DESCRIPTION_MAX_CHARS:
        raise _wrong(".description", f"is longer than {_DESCRIPTION_MAX_CHARS} characters")
    strict = told.get("strict")
    if strict is not None and not isinstance(strict, bool):
        raise _wrong(".strict", "must be true or false")
    return AnswerForm(
        name=name,
        description=description,
        schema_text=_schema(told, is_strict=bool(strict)),
    )


def _schema(told: dict[str, Any], *, is_strict: bool) -> str | None:
    schema = told.get("schema")
    if schema is None and not is_strict:
        return None
    if not isinstance(schema, dict):
        raise _wrong(".schema", "must be an object")
    checked = check_schema(schema, f"{_NAMED}.schema", is_strict=is_strict)
    return json.dumps(checked, separators=(",", ":"))


def _wrong(field: str, what: str) -> RequestRefused:
    return RequestRefused(f"`{_NAMED}{field}` {what}.", param=f"{_NAMED}{field}")
