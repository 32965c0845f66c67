"""Hosts as an operator lists them."""

from __future__ import annotations

import pytest

from infra.releases.origins import is_listed

HOSTS = ("mcp.example.org", ".sub.example.org", "other.example.org:8443", "http://localhost:99")


@pytest.mark.parametrize(
    "url",
    [
        "https://mcp.example.org/x",
        "https://MCP.example.org:443",
        "https://mcp.example.org./x",
        "https://a.b.sub.example.org",
        "https://sub.example.org/x",
        "https://other.example.org:8443",
        "http://localhost:99/mcp",
    ],
)
def test_these_are_listed(url: str) -> None:
    assert is_listed(url, HOSTS)


@pytest.mark.parametrize(
    "url",
    [
        "http://mcp.example.org/x",
        "https://mcp.example.org:8443",
        "https://evil.org/mcp.example.org",
        "https://mcp.example.org.evil.org",
        "https://mcp.example.org@evil.org",
        "https://evil.org#mcp.example.org",
        "https://xmcp.example.org",
        "https://xsub.example.org",
        "https://mcp.example.org:99999",
        "https://mcp.exаmple.org",  # A letter of another alphabet.
        "https://other.example.org",
        "https://localhost:99",
        "ftp://mcp.example.org",
        "",
    ],
)
def test_these_are_not(url: str) -> None:
    assert not is_listed(url, HOSTS)


def test_an_empty_list_has_nothing() -> None:
    assert not is_listed("https://mcp.example.org", ())
