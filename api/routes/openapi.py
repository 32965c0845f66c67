"""The OpenAPI document: what routes add to what FastAPI finds out by itself.

FastAPI knows the answers and the parameters in a URL. The body (which we parse ourselves), the
headers with a meaning and the errors are added here, so that the document describes everything that
the API does. `tests/integration/api/test_fuzz.py` compares the two.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from api.chat.options.display import DISPLAY_HEADER
from api.chat.request import ChatRequest
from api.files.shapes import PURPOSES, CompleteUploadBody, NewUploadBody
from api.routes.shapes import ErrorAnswer
from api.turns.options import OPTION_HEADERS
from infra.runtime.settings import ToolDisplay

NUMBERS_HEADER = "X-Event-IDs"
"""Whether a stream's blocks carry the number of their event as its `id`."""

Responses = dict[int | str, dict[str, Any]]

EVENT_STREAM = {
    # Without a schema, because this version of OpenAPI has none for a sequence of events.
    "text/event-stream": {
        "example": 'data: {"object":"chat.completion.chunk",…}\n\ndata: [DONE]\n\n'
    }
}
KEYED: dict[str, Any] = {"security": [{"bearer": []}, {"x-api-key": []}]}
OPEN: dict[str, Any] = {"security": []}
OPEN_OR_KEYED: dict[str, Any] = {"security": [{}, {"bearer": []}, {"x-api-key": []}]}
CHAT_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/ChatRequest"}},
        },
    }
}


def json_of(body: type) -> dict[str, Any]:
    """A body of that form, which the document describes (`BODIES`)."""
    schema = {"$ref": f"#/components/schemas/{body.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _form(required: list[str], **fields: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "required": required, "properties": fields}
    return {
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}
    }


_BINARY = {"type": "string", "format": "binary"}
FILE_FORM = _form(
    ["file", "purpose"],
    file=_BINARY,
    purpose={"type": "string", "enum": list(PURPOSES)},
)
PART_FORM = _form(["data"], data=_BINARY)

BODIES = (ChatRequest, NewUploadBody, CompleteUploadBody)
"""Bodies that we parse ourselves."""

_ANYWHERE = (400, 431, 500, 503)
_FOR_KEYS = (401, 429)
_OF_TURNS = (402, 403, 404, 409, 413, 502, 504)
_SCHEMAS_OF_422 = ("HTTPValidationError", "ValidationError")
_WAITING = {"429", "503"}


def errors(*statuses: int, is_keyed: bool = True, is_of_turns: bool = False) -> Responses:
    """The error answers of a route: the given ones, and those of every such route."""
    all_of_them = {
        *statuses,
        *_ANYWHERE,
        *(_FOR_KEYS if is_keyed else ()),
        *(_OF_TURNS if is_of_turns else ()),
    }
    return {
        status: {"model": ErrorAnswer, "description": HTTPStatus(status).phrase}
        for status in sorted(all_of_them)
    }


def header(name: str, description: str, **schema: Any) -> dict[str, Any]:
    """A header that a route reads."""
    return {
        "name": name,
        "in": "header",
        "required": False,
        "description": description,
        "schema": {"type": "string", **schema},
    }


def chat_headers(max_chars: int) -> dict[str, Any]:
    """The headers of `POST /v1/chat/completions`."""
    bounded = {"maxLength": max_chars}
    return {
        "parameters": [
            header("X-Conversation-ID", "Names the conversation.", **bounded),
            header("Idempotency-Key", "The same key and body: the same turn.", **bounded),
            header("X-Message-ID", "The same, for clients that retry.", **bounded),
            header("X-Task", "Not empty: a side request.", **bounded),
            *(header(name, said, **bounded) for name, said in OPTION_HEADERS.items()),
            header(
                "X-On-Disconnect",
                "Whether the turn goes on when its client hangs up.",
                enum=["cancel", "continue"],
            ),
            header(NUMBERS_HEADER, "Whether events carry an `id`.", enum=["true", "false"]),
            header(DISPLAY_HEADER, "Where thinking and tools are shown.", enum=list(ToolDisplay)),
        ]
    }


LAST_EVENT: dict[str, Any] = {
    "parameters": [
        header("Last-Event-ID", "The `id` of the last event that was seen.", pattern="^[0-9]+$")
    ]
}


RANGE: dict[str, Any] = {
    "parameters": [header("Range", "The bytes that are wanted.", pattern="^bytes=[0-9]*-[0-9]*$")]
}


def document(app: FastAPI) -> dict[str, Any]:
    """The complete document, built once."""
    if app.openapi_schema is None:
        schema = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        _, bodies = msgspec.json.schema_components(
            BODIES, ref_template="#/components/schemas/{name}"
        )
        components = schema["components"]
        components["schemas"] |= bodies
        for name in _SCHEMAS_OF_422:
            components["schemas"].pop(name, None)
        components["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
        }
        for path in schema["paths"].values():
            for operation in path.values():
                _complete(operation["responses"])
        app.openapi_schema = schema
    return app.openapi_schema


def _complete(responses: dict[str, Any]) -> None:
    """Removes 422 (400 here), and adds the headers of answers."""
    responses.pop("422", None)
    for status, response in responses.items():
        headers = response.setdefault("headers", {})
        headers["x-request-id"] = {
            "description": "The request's own id, or a fresh one.",
            "schema": {"type": "string"},
        }
        if status in _WAITING:
            headers["retry-after"] = {
                "description": "Seconds, where waiting helps.",
                "schema": {"type": "integer", "minimum": 1},
            }
