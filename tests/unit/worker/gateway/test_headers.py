"""Headers between agent and upstream."""

from __future__ import annotations

import pytest

from worker.gateway.model.headers import is_retry_pointless, retry_after_s, to_agent, to_upstream


@pytest.mark.parametrize(
    "name",
    [
        "Authorization",
        "X-Api-Key",
        "Cookie",
        "Proxy-Authorization",
        "Proxy-Connection",
        "X-Auth-Token",
        "X-Amz-Security-Token",
        "Api-Key",
        "X-Forwarded-For",
        "Forwarded",
        "Connection",
        "Transfer-Encoding",
        "Host",
        "Expect",
        "X-Named",
    ],
)
def test_an_agents_suspect_headers_do_not_leave(name: str) -> None:
    sent = to_upstream([(name, "x"), ("Connection", "x-named")], api_key="the key")
    assert dict(sent) == {"accept-encoding": "identity", "x-api-key": "the key"}


@pytest.mark.parametrize(
    "name",
    [
        "content-type",
        "anthropic-version",
        "user-agent",
        "x-app",
        "x-stainless-os",
    ],
)
def test_what_the_api_needs_passes(name: str) -> None:
    assert to_upstream([(name, "v")], api_key="k")[name] == "v"


def test_the_account_behind_the_key_stays_unknown_to_the_agent() -> None:
    given = [("anthropic-organization-id", "o"), ("set-cookie", "c"), ("request-id", "r")]
    assert dict(to_agent(given, status=200)) == {"request-id": "r"}


def test_an_upstreams_word_on_retrying_passes() -> None:
    assert to_agent([("x-should-retry", "false")], status=500)["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("status", "wait_s", "is_pointless"),
    [
        (200, None, False),
        (400, None, True),
        (401, None, True),
        (403, None, True),
        (404, None, True),
        (408, None, False),
        (413, None, True),
        (429, None, False),
        (429, 20.0, False),
        (429, 20.5, True),
        (529, 3600.0, True),
        (500, 3600.0, False),
    ],
)
def test_a_retry_is_pointless_when_nothing_will_have_changed(
    status: int, wait_s: float | None, is_pointless: bool
) -> None:
    assert is_retry_pointless(status, retry_after_s=wait_s) is is_pointless


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("5", 5.0),
        ("0.5", 0.5),
        ("", None),
        ("soon", None),
        ("-1", None),
        ("inf", None),
        ("nan", None),
    ],
)
def test_retry_after_is_read_in_seconds(given: str, seconds: float | None) -> None:
    assert retry_after_s({"retry-after": given}) == seconds


def test_of_an_agents_betas_only_the_listed_go_on() -> None:
    given = [
        ("anthropic-beta", "interleaved-thinking-2025-05-14, fast-mode-2026-02-01"),
        ("Anthropic-Beta", "files-api-2025-04-14,claude-code-20250219,interleaved-thinking"),
        ("anthropic-beta", "code-execution-2025-08-25"),
    ]
    sent = to_upstream(given, api_key="k")
    assert sent.getall("anthropic-beta") == [
        "interleaved-thinking-2025-05-14,claude-code-20250219,interleaved-thinking"
    ]
    assert "anthropic-beta" not in to_upstream(given[2:], api_key="k")
