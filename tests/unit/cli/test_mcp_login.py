"""What a server may say about where its tokens come from."""

from __future__ import annotations

import pytest

from infra.cli.ops.mcp_login import LoginFailed, token_endpoint


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://mcp.example.com/", "https://login.example.com/token"),
        ("http://127.0.0.1:8000/mcp", "http://127.0.0.1:8000/token"),
        ("http://mcp.internal/", "https://login.example.com/token"),
    ],
)
def test_a_service_that_is_as_safe_as_its_server(url: str, told: str) -> None:
    assert token_endpoint(url, told) == told


@pytest.mark.parametrize("told", ["http://login.example.com/token", "ftp://a/", ""])
def test_tokens_are_not_sent_in_the_clear(told: str) -> None:
    with pytest.raises(LoginFailed, match="https"):
        token_endpoint("https://mcp.example.com/", told)
