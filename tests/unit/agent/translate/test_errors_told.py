"""Errors of the CLI become codes and words that are fit for users."""

from __future__ import annotations

import pytest

from agent.translate.ends import error_of
from infra.wire.errors import ErrorCode


@pytest.mark.parametrize(
    ("status", "kind", "prose", "code"),
    [
        (401, "authentication_failed", "Invalid API key", ErrorCode.INVALID_KEY),
        (402, "billing_error", "Credit balance is too low", ErrorCode.INSUFFICIENT_QUOTA),
        (400, "invalid_request", "Prompt is too long", ErrorCode.CONTEXT_TOO_LONG),
        (400, "invalid_request", "API Error: 400 bad block", ErrorCode.INVALID_REQUEST),
        (413, "invalid_request", "Request too large", ErrorCode.CONTEXT_TOO_LONG),
        (400, "invalid_request", "image.source: too large: 9 MB", ErrorCode.INVALID_REQUEST),
        (400, "invalid_request", "The PDF document is too large", ErrorCode.INVALID_REQUEST),
        (400, "invalid_request", "The request is too large", ErrorCode.CONTEXT_TOO_LONG),
        (400, "invalid_request", "prompt is too long: 9 images", ErrorCode.CONTEXT_TOO_LONG),
        (418, None, "teapot", ErrorCode.INVALID_REQUEST),
        (500, "server_error", "", ErrorCode.UPSTREAM_ERROR),
        (502, "server_error", "", ErrorCode.UPSTREAM_UNREACHABLE),
        (503, "server_error", "", ErrorCode.OVERLOADED),
        (529, "server_error", "", ErrorCode.OVERLOADED),
        (599, None, "", ErrorCode.UPSTREAM_ERROR),
        (None, "server_error", "Unable to connect (ENOENT)", ErrorCode.UPSTREAM_UNREACHABLE),
        (None, "rate_limit", "limit reached", ErrorCode.RATE_LIMITED),
        (None, None, "Request timed out", ErrorCode.UPSTREAM_UNREACHABLE),
        (None, None, "", ErrorCode.UPSTREAM_ERROR),
    ],
)
def test_an_error_has_its_code(
    status: int | None, kind: str | None, prose: str, code: ErrorCode
) -> None:
    error = error_of(status=status, kind=kind, prose=prose)
    assert error.code is code
    assert error.message


def test_a_faulty_request_is_explained_without_hosts_and_paths() -> None:
    prose = (
        "API Error: 400 bad image at /workspace/x/y.png from https://a.example/b (model.agcluster)"
    )
    message = error_of(status=400, kind="invalid_request", prose=prose).message
    assert "bad image" in message
    for secret in ("/workspace", "a.example", "model.agcluster"):
        assert secret not in message
