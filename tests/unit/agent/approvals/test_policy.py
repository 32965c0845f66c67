"""Which calls are made, refused and asked about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.approvals.policy import Asks, CallDenied, CallPolicy, digest_of
from infra.wire.agents.permissions import Permissions


def decided(permissions: Permissions, tool: str, **more: Any) -> str:
    granted, is_planning = more.pop("granted", ()), more.pop("is_planning", False)
    policy = CallPolicy(
        permissions, workspace=Path("/workspace"), granted=granted, is_planning=is_planning
    )
    match policy.decide(tool, more):
        case CallDenied():
            return "refused"
        case Asks(scopes):
            return " ".join(scopes)
    return "made"


RULES = Permissions(
    ask=("Bash(git push:*)", "mcp__github__*", "WebFetch(domain:*.example.com)"),
    deny=("Read(/workspace/secret/*)", "mcp__github__delete_repo"),
)


@pytest.mark.parametrize(
    ("tool", "given", "expected"),
    [
        ("Bash", {"command": "git status"}, "made"),
        ("Bash", {"command": "git pushup"}, "made"),
        ("Bash", {"command": "git push origin"}, "rule:Bash(git push:*)"),
        ("Bash", {"command": "cd a&&git  push"}, "rule:Bash(git push:*)"),
        ("Bash", {"command": "bash -c 'g\"i\"t p\\ush'"}, "rule:Bash(git push:*)"),
        ("Bash", {"command": "true\ngit\tpush"}, "rule:Bash(git push:*)"),
        ("mcp__github__list", {}, "rule:mcp__github__*"),
        ("mcp__github__delete_repo", {}, "refused"),
        ("mcp__gitlab__list", {}, "made"),
        ("WebFetch", {"url": "https://a.example.com/x"}, "rule:WebFetch(domain:*.example.com)"),
        ("WebFetch", {"url": "https://u:p@A.EXAMPLE.com"}, "rule:WebFetch(domain:*.example.com)"),
        ("WebFetch", {"url": "https://example.org/a.example.com"}, "made"),
        ("Read", {"file_path": "/workspace/secret/key"}, "refused"),
        ("Read", {"file_path": "a/../secret/key"}, "refused"),
        ("Read", {"file_path": "/workspace/open/key"}, "made"),
        ("Read", {"file_path": 7}, "made"),
    ],
)
def test_rules(tool: str, given: dict[str, Any], expected: str) -> None:
    assert decided(RULES, tool, **given) == expected


def test_sub_agents_are_meant_by_both_names_of_their_tool() -> None:
    assert decided(Permissions(ask=("Task",)), "Agent") == "rule:Task"
    assert decided(Permissions(deny=("Agent",)), "Agent") == "refused"


def test_links_to_files_are_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    rules = Permissions(deny=(f"Write({tmp_path}/secret/*)",))
    policy = CallPolicy(rules, workspace=tmp_path)
    assert isinstance(policy.decide("Write", {"file_path": "link/a"}), CallDenied)


@pytest.mark.parametrize(
    ("tool", "given", "expected"),
    [
        ("Read", {"file_path": "a"}, "made"),
        ("Task", {}, "made"),
        ("Write", {"file_path": "a"}, "tool:Write"),
        ("mcp__x__y", {}, "tool:mcp__x__y"),
        ("Bash", {"command": "git log -3"}, "made"),
        ("Bash", {"command": "git log; rm a"}, None),
        ("Bash", {"command": "git log `rm a`"}, None),
        ("Bash", {"command": "git log > a"}, None),
        ("Bash", {"command": "git logs"}, None),
    ],
)
def test_ask_mode(tool: str, given: dict[str, Any], expected: str | None) -> None:
    rules = Permissions(mode="ask", allow=("Bash(git log:*)",))
    assert decided(rules, tool, **given) == (expected or f"call:{digest_of(tool, given)}")


def test_what_was_allowed_for_good_is_not_asked_about_again() -> None:
    rule = "rule:Bash(git push:*)"
    assert decided(RULES, "Bash", command="git push", granted=(rule,)) == "made"
    whole = Permissions(ask=("Bash", "Bash(rm:*)"))
    this = f"call:{digest_of('Bash', {'command': 'rm a'})}"
    assert decided(whole, "Bash", command="rm a") == f"{this} rule:Bash(rm:*)"
    assert decided(whole, "Bash", command="rm b", granted=(this,)).endswith("rule:Bash(rm:*)")


def test_in_plan_mode_nothing_is_changed() -> None:
    rules = Permissions(mode="plan", allow=("Bash(git log:*)", "mcp__x__get_*"))
    for tool, given in [("Write", {"file_path": "a"}), ("Bash", {"command": "ls"})]:
        assert decided(rules, tool, **given, is_planning=True) == "refused"
        assert decided(rules, tool, **given) == "made"
    for tool in ("Read", "WebFetch", "mcp__x__get_it"):
        assert decided(rules, tool, is_planning=True) == "made"
    assert decided(rules, "Bash", command="git log", is_planning=True) == "made"
    assert decided(rules, "mcp__x__set_it", is_planning=True) == "refused"


ODD_URLS = [
    "https://denied.example\\@ok.example/",
    "https:denied.example",
    "https:/denied.example/",
    "https:///denied.example",
    " https://de\tnied.example",
    "https://%64enied.example",
    "https://\uff44enied.example",
    "https://denied.example./",
    "https://u@ok.example@denied.example",
    "HTTPS://DENIED.example:443",
    "denied.example",
    "https://[",
    7,
]


@pytest.mark.parametrize("url", ODD_URLS)
def test_no_spelling_of_an_address_passes_by_a_rule(url: object) -> None:
    rules = Permissions(deny=("WebFetch(domain:denied.example)",))
    assert decided(rules, "WebFetch", url=url) == "refused"


@pytest.mark.parametrize("url", ODD_URLS)
def test_no_spelling_of_an_address_is_allowed_for_another(url: object) -> None:
    rules = Permissions(mode="ask", allow=("WebFetch(domain:ok.example)",))
    assert decided(rules, "WebFetch", url=url) == "tool:WebFetch"
    assert decided(rules, "WebFetch", url="https://ok.example:8443/a@b?c#d") == "made"


@pytest.mark.parametrize(
    ("tool", "given", "expected"),
    [
        ("Grep", {"pattern": "x"}, "refused"),
        ("Grep", {"pattern": "x", "path": "secret"}, "refused"),
        ("Grep", {"pattern": "x", "path": "/"}, "refused"),
        ("Grep", {"pattern": "x", "path": "/workspace/open"}, "made"),
        ("Glob", {"pattern": "open/*"}, "made"),
        ("Glob", {"pattern": "secret/*"}, "refused"),
        ("Glob", {"pattern": "/workspace/secret/k*"}, "refused"),
        ("Glob", {"pattern": "open/../secret/*"}, "refused"),
        ("Glob", {"pattern": "*/../secret/*", "path": "/workspace/open"}, "refused"),
        ("Glob", {"pattern": "secret/key"}, "refused"),
        ("Glob", {"pattern": "**/*.py"}, "refused"),
    ],
)
def test_a_search_of_a_folder_is_one_of_what_is_below(
    tool: str, given: dict[str, Any], expected: str
) -> None:
    rules = Permissions(deny=("Grep(/workspace/secret/*)", "Glob(/workspace/secret/*)"))
    assert decided(rules, tool, **given) == expected
