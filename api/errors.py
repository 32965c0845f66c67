"""The only table from an error's code to an HTTP status and an OpenAI error body.

Nothing else chooses a status. Clients decide by these whether to retry, so they are chosen for how
real clients behave (LangChain retries 422 for 100 s, so bad bodies are 400; nobody retries 413;
`insufficient_quota` stops LangChain at once). Answers never contain internals: an error that was
not written for the user is shown with its code's sentence (`infra.wire.text.words`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from starlette.responses import Response

from infra.metrics.api import ERRORS
from infra.wire.errors import AgClusterError, ErrorCode, RequestRefused, TurnFailed
from infra.wire.text.words import SENTENCES

RETRY_AFTER_MAX_S = 60.0
"""openai-python ignores longer waits, and people do not wait longer."""


@dataclass(frozen=True)
class Shown:
    """How a code is shown. `should_retry` is for clients that support it (`x-should-retry`)."""

    status: int
    type: str
    retry_after_s: float | None = None
    should_retry: bool | None = None


_INVALID = "invalid_request_error"
_AUTH = "authentication_error"
_LIMIT = "rate_limit_error"
_API = "api_error"

TABLE: Mapping[ErrorCode, Shown] = {
    ErrorCode.INVALID_REQUEST: Shown(400, _INVALID),
    ErrorCode.BODY_TOO_LARGE: Shown(413, _INVALID),
    ErrorCode.HEADERS_TOO_LARGE: Shown(431, _INVALID),
    ErrorCode.REQUEST_TIMEOUT: Shown(408, _INVALID),
    ErrorCode.MISSING_KEY: Shown(401, _AUTH),
    ErrorCode.INVALID_KEY: Shown(401, _AUTH, should_retry=False),
    ErrorCode.PERMISSION_DENIED: Shown(403, "permission_error"),
    ErrorCode.MODEL_NOT_FOUND: Shown(404, _INVALID),
    ErrorCode.CONTEXT_TOO_LONG: Shown(400, _INVALID),
    ErrorCode.RATE_LIMITED: Shown(429, _LIMIT, retry_after_s=5),
    ErrorCode.INSUFFICIENT_QUOTA: Shown(429, "insufficient_quota", should_retry=False),
    # 402, because LangChain would repeat a 429 with any other code for minutes.
    ErrorCode.BUDGET_EXCEEDED: Shown(402, "insufficient_quota", should_retry=False),
    ErrorCode.OVERLOADED: Shown(503, _API, retry_after_s=5),
    ErrorCode.UPSTREAM_ERROR: Shown(502, _API),
    ErrorCode.UPSTREAM_UNREACHABLE: Shown(502, _API),
    # 409, because LangChain would repeat a 5xx, and with it all the agent's work, for minutes.
    ErrorCode.NOT_AS_ASKED: Shown(409, _API, should_retry=False),
    ErrorCode.TURN_NOT_FOUND: Shown(404, _INVALID),
    ErrorCode.TURN_RUNNING: Shown(409, _INVALID, retry_after_s=2),
    ErrorCode.CONVERSATION_NOT_FOUND: Shown(404, _INVALID),
    ErrorCode.CONVERSATION_BUSY: Shown(409, _INVALID, should_retry=False),
    ErrorCode.FILE_NOT_FOUND: Shown(404, _INVALID),
    ErrorCode.REGISTRY_ENTRY_NOT_FOUND: Shown(404, _INVALID),
    ErrorCode.LINK_EXPIRED: Shown(410, _INVALID),
    ErrorCode.FILE_TOO_LARGE: Shown(413, _INVALID),
    # 413, because nobody repeats one, and only deleting files helps.
    ErrorCode.FILES_FULL: Shown(413, _INVALID, should_retry=False),
    ErrorCode.RANGE_NOT_SATISFIABLE: Shown(416, _INVALID),
    ErrorCode.FILE_STORE_UNAVAILABLE: Shown(503, _API, retry_after_s=5),
    ErrorCode.QUEUE_FULL: Shown(429, _LIMIT, retry_after_s=5),
    ErrorCode.TENANT_LIMIT: Shown(429, _LIMIT, retry_after_s=5),
    ErrorCode.CLUSTER_FULL: Shown(503, _API, retry_after_s=10),
    ErrorCode.REPLICA_FULL: Shown(503, _API, retry_after_s=1),
    ErrorCode.QUEUE_TIMEOUT: Shown(503, _API, retry_after_s=10),
    ErrorCode.TURN_TIMED_OUT: Shown(504, _API, should_retry=False),
    ErrorCode.TURN_CANCELLED: Shown(409, _INVALID, should_retry=False),
    ErrorCode.CONTAINER_FAILED: Shown(500, _API),
    ErrorCode.CONTAINER_LOST: Shown(500, _API),
    ErrorCode.OUT_OF_MEMORY: Shown(500, _API, should_retry=False),
    ErrorCode.AGENT_FAILED: Shown(500, _API),
    # Not to be repeated: the model was asked more than once already.
    ErrorCode.FORM_NOT_KEPT: Shown(502, _API, should_retry=False),
    ErrorCode.WORKSPACE_FULL: Shown(413, _INVALID, should_retry=False),
    ErrorCode.LOG_LOST: Shown(500, _API, should_retry=False),
    # No client that follows x-should-retry repeats a 409, and neither does LangChain.
    ErrorCode.LOG_TRIMMED: Shown(409, _INVALID, should_retry=False),
    ErrorCode.STORE_UNAVAILABLE: Shown(503, _API, retry_after_s=2),
    ErrorCode.SHUTTING_DOWN: Shown(503, _API, retry_after_s=1),
    ErrorCode.INTERNAL: Shown(500, _API),
}


def message_of(error: AgClusterError) -> str:
    """The message for the user: the one written for them, otherwise the code's sentence."""
    if isinstance(error, RequestRefused | TurnFailed):
        return error.message or SENTENCES[error.code]
    return SENTENCES[error.code]


def error_body(error: AgClusterError) -> dict[str, Any]:
    """OpenAI's error object, always with all four fields."""
    return {
        "message": message_of(error),
        "type": TABLE[error.code].type,
        "param": error.param if isinstance(error, RequestRefused) else None,
        "code": error.code.value,
    }


def status_of(error: AgClusterError) -> int:
    """The HTTP status of an error's answer."""
    return TABLE[error.code].status


def error_headers(error: AgClusterError, *, had_effects: bool = False) -> dict[str, str]:
    """The headers of an error's answer, which say whether and when to try again.

    `had_effects`: tools may have run, so clients are told not to repeat the request.
    """
    shown = TABLE[error.code]
    headers: dict[str, str] = {}
    wait_s = getattr(error, "retry_after_s", None) or shown.retry_after_s
    if had_effects or shown.should_retry is False:
        headers["x-should-retry"] = "false"
        if error.code is ErrorCode.BUDGET_EXCEEDED and wait_s is not None:
            # Not for a client to wait that long, but for people to know.
            headers["retry-after"] = str(max(1, round(wait_s)))
    elif wait_s is not None:
        headers["retry-after"] = str(max(1, round(min(wait_s, RETRY_AFTER_MAX_S))))
    if error.code is ErrorCode.REQUEST_TIMEOUT:
        headers["connection"] = "close"
    if shown.status == HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    return headers


def error_response(error: AgClusterError, *, had_effects: bool = False) -> Response:
    """The complete answer for an error before the first byte.

    `had_effects`: tools may have run, so clients are told not to repeat the request.
    """
    ERRORS.labels(error.code.value).inc()
    headers = error_headers(error, had_effects=had_effects)
    return _json(status_of(error), error_body(error), headers)


def routing_error(status: int, method: str, path: str, headers: Mapping[str, str]) -> Response:
    """The router's 404 and 405 (and whatever else it refuses), in OpenAI's format."""
    if status == HTTPStatus.NOT_FOUND:
        code, message = "unknown_url", f"Unknown request URL: {method} {path[:200]}"
    elif status == HTTPStatus.METHOD_NOT_ALLOWED:
        code, message = "method_not_allowed", f"{method} is not allowed at {path[:200]}"
    else:
        code, message = "invalid_request", HTTPStatus(status).phrase
    body = {"message": message, "type": _INVALID, "param": None, "code": code}
    return _json(status, body, dict(headers))


def _json(status: int, error: Mapping[str, Any], headers: Mapping[str, str]) -> Response:
    content = json.dumps({"error": error}, separators=(",", ":")).encode()
    return Response(content, status, dict(headers), media_type="application/json")
