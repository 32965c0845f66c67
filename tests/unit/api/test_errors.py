"""One table says how every error looks."""

from __future__ import annotations

import json

import pytest

from api.errors import TABLE, error_response, routing_error
from infra.wire.errors import (
    ErrorCode,
    RequestRefused,
    StoreUnavailable,
    TurnFailed,
)


def test_every_code_has_a_row() -> None:
    assert set(TABLE) == set(ErrorCode)


@pytest.mark.parametrize("code", list(ErrorCode))
def test_every_answer_has_openais_four_fields(code: ErrorCode) -> None:
    answer = error_response(TurnFailed("", code=code))
    body = json.loads(bytes(answer.body))
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    assert body["error"]["code"] == code.value
    assert answer.status_code != 422


def test_internals_are_never_shown() -> None:
    body = bytes(error_response(StoreUnavailable("redis://user:pw@10.0.0.1 said no")).body)
    assert b"10.0.0.1" not in body


def test_waits_are_told_in_whole_bounded_seconds() -> None:
    told = error_response(RequestRefused("x", code=ErrorCode.RATE_LIMITED, retry_after_s=0.2))
    assert told.headers["retry-after"] == "1"
    told = error_response(RequestRefused("x", code=ErrorCode.RATE_LIMITED, retry_after_s=3600))
    assert told.headers["retry-after"] == "60"


def test_clients_are_told_not_to_repeat_what_may_have_run() -> None:
    answer = error_response(TurnFailed("", code=ErrorCode.OVERLOADED), had_effects=True)
    assert answer.headers["x-should-retry"] == "false"
    assert "retry-after" not in answer.headers


def test_wrong_key_is_not_worth_a_retry() -> None:
    answer = error_response(RequestRefused("x", code=ErrorCode.INVALID_KEY))
    assert answer.status_code == 401
    assert answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("status", [400, 404, 405])
def test_router_errors_have_the_same_form(status: int) -> None:
    answer = routing_error(status, "GET", "/x", {"allow": "POST"})
    assert answer.status_code == status
    assert set(json.loads(bytes(answer.body))["error"]) == {"message", "type", "param", "code"}
    assert answer.headers["allow"] == "POST"
