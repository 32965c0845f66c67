"""MCP servers as people read of them."""

from __future__ import annotations

import pytest

from agent.translate.mcp import missing_servers, servers_seen, shown_name
from infra.wire.mcp.secrets import ServerSeen


@pytest.mark.parametrize(
    ("tool", "shown"),
    [
        ("mcp__github__search_issues", "github: search_issues"),
        ("mcp__my-tables__a__b", "my-tables: a__b"),
        ("Bash", "Bash"),
        ("mcp__", "mcp__"),
    ],
)
def test_a_tool_is_shown_with_its_server(tool: str, shown: str) -> None:
    assert shown_name(tool) == shown


def test_servers_that_work_are_not_worth_a_word() -> None:
    init = {
        "mcp_servers": [
            {"name": "good", "status": "connected"},
            {"name": "locked", "status": "needs-auth"},
            {"name": "dead", "status": "failed"},
            "nonsense",
        ]
    }
    words = {"dead": "no\x1b[1m way\nout" + "!" * 900}
    said = list(missing_servers(init, lambda name: words.get(name)))
    assert said[0] == "The MCP server locked asks for a login; its tools are missing."
    assert said[1].startswith(
        "The MCP server dead does not answer; its tools are missing. It wrote: no way out!"
    )
    assert len(said[1]) < 300
    assert len(said) == 2
    assert list(missing_servers({"mcp_servers": None}, lambda _: None)) == []


def test_what_operators_see_of_servers_is_counted_and_in_form() -> None:
    init = {
        "mcp_servers": [
            {"name": "github", "status": "connected"},
            {"name": "dead", "status": "failed"},
            {"name": "../odd", "status": "connected"},
            {"name": "long", "status": "x" * 99},
        ],
        "tools": ["Bash", "mcp__github__a", "mcp__github__b", "mcp__github-2__c", None],
    }
    seen = list(servers_seen(init, lambda name: "no\x1b[2J way" if name == "dead" else None))
    assert seen == [
        ServerSeen(name="github", status="connected", tools=2),
        ServerSeen(name="dead", status="failed", detail="no way"),
    ]
    assert list(servers_seen({"tools": 1}, lambda _: None)) == []
