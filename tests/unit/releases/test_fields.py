"""An installed agent never has more than its operator's policy allows."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import Field

import infra.releases.fields as tables
from infra.releases.fields import PARTS, RULES, check, permissions
from infra.releases.refused import ReleaseRefused
from infra.wire.agents.part import ProfilePart
from infra.wire.agents.profile import AgentProfile
from tests.fakes.releases import policy


def profile(**fields: Any) -> AgentProfile:
    return AgentProfile.model_validate(fields, extra="forbid")


def parts(kind: type[ProfilePart]) -> list[type[ProfilePart]]:
    return [kind, *(deeper for below in kind.__subclasses__() for deeper in parts(below))]


def test_every_field_of_a_profile_has_a_decision() -> None:
    """A new field: decide in `infra/releases/fields.py` what installed agents may do with it."""
    assert set(RULES) == set(AgentProfile.model_fields)
    ours = [part for part in parts(ProfilePart) if part.__module__.startswith("infra.")]
    for part in ours:
        if part not in (ProfilePart, AgentProfile):
            assert set(PARTS[part]) == set(part.model_fields), part


def test_a_field_without_a_decision_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = {name: rule for name, rule in RULES.items() if name != "questions"}
    monkeypatch.setattr(tables, "RULES", rules)
    with pytest.raises(ReleaseRefused, match="questions: this version does not let"):
        check(profile(questions=True), policy())
    check(profile(), policy())


def test_a_part_without_a_decision_is_refused() -> None:
    class Later(ProfilePart):
        power: int = 0

    class LaterProfile(AgentProfile):
        icon: Any = Field(None)

    given = LaterProfile(icon=None).model_copy(update={"environment": {"a": Later(power=1)}})
    with pytest.raises(ReleaseRefused, match="power: this version does not let"):
        check(given, policy(installed_agents_environment="a"))


@pytest.mark.parametrize(
    ("fields", "settings", "fault"),
    [
        ({"tools": ["Bash"]}, {"tools": "Read"}, "tools: Bash not allowed"),
        ({"tools": ["Bash"]}, {"installed_agents_tools": "Read"}, "tools: Bash not allowed"),
        (
            {"sub_agents": {"a": {"description": "d", "prompt": "p", "tools": ["Bash"]}}},
            {"installed_agents_tools": "Read"},
            "sub_agents.a.tools: Bash not allowed",
        ),
        (
            {"sub_agents": {"a": {"description": "d", "prompt": "p", "model": "dear"}}},
            {},
            "sub_agents.a.model: dear not allowed",
        ),
        ({"models": ["b"]}, {"installed_agents_models": "a"}, "models: b not allowed"),
        ({"model": "b"}, {"installed_agents_models": "a"}, "models: b not allowed"),
        ({"image": "data"}, {}, "image: data not allowed"),
        (
            {"mcp_servers": {"x": {"url": "https://a.org", "login": True}}},
            {"installed_agents_mcp_hosts": "a.org"},
            "mcp_servers.x.login: installed agents have none",
        ),
        ({"delegates": ["admin"]}, {}, "delegates: installed agents call no other"),
        ({"egress_profile": "all"}, {}, "egress_profile: all not allowed"),
        ({}, {"installed_agents_usual_egress": "false"}, "egress_profile: must name one of"),
        ({"environment": {"GIT_SSH": "x"}}, {}, "environment.GIT_SSH: not allowed"),
        (
            {"environment": {"PATH": "x"}},
            {"installed_agents_environment": "PATH"},
            "environment.PATH: not allowed",
        ),
        (
            {"mcp_servers": {"x": {"command": "sh"}}},
            {},
            "mcp_servers.x: command not allowed",
        ),
        (
            {"mcp_servers": {"x": {"command": "sh", "env": {"A": "b"}}}},
            {"installed_agents_mcp_commands": "true"},
            "mcp_servers.x.env.A: not allowed",
        ),
        (
            {"permissions": {"mode": "default"}},
            {"permissions": '{"mode": "ask"}'},
            "permissions.mode: the deployment's is ask",
        ),
        (
            {"permissions": {"allow": ["Bash"]}},
            {"permissions": '{"mode": "ask", "allow": ["Read"]}'},
            "permissions.allow: Bash not allowed",
        ),
        ({"tenants": ["0" * 20]}, {}, "tenants: are the deployment's"),
        ({"url": "javascript:alert(1)"}, {}, "url: must be"),
        ({"icon": "javascript:alert(1)"}, {}, "icon: must be"),
    ],
)
def test_what_is_beyond_the_policy_is_refused(
    fields: dict[str, Any], settings: dict[str, str], fault: str
) -> None:
    with pytest.raises(ReleaseRefused) as refused:
        check(profile(**fields), policy(**settings))
    assert fault in str(refused.value)


def server(url: str, **headers: str) -> dict[str, Any]:
    return {"mcp_servers": {"x": {"url": url, "headers": headers}}}


def test_a_secret_goes_to_its_own_host_only() -> None:
    allowed = policy(
        installed_agents_mcp_hosts="a.org,b.org", installed_agents_mcp_secrets="TOKEN=a.org"
    )
    check(profile(**server("https://a.org/mcp", Authorization="Bearer ${TOKEN}")), allowed)
    check(profile(**server("https://b.org/mcp", Authorization="of mine")), allowed)
    for url, value in (
        ("https://b.org/mcp", "Bearer ${TOKEN}"),
        ("https://a.org/mcp", "${OTHER}"),
        ("https://a.org/mcp", "${TOKEN}${OTHER}"),
    ):
        with pytest.raises(ReleaseRefused, match="must not be sent there"):
            check(profile(**server(url, Authorization=value)), allowed)
    for url in ("https://c.org", "http://a.org", "https://a.org:99"):
        with pytest.raises(ReleaseRefused, match="MCP_HOSTS"):
            check(profile(**server(url)), allowed)


def test_what_a_profile_leaves_open_is_bounded() -> None:
    allowed = policy(
        tools="Bash,Read",
        installed_agents_tools="Read,Grep",
        installed_agents_models="a",
        installed_agents_max_turns="9",
        installed_agents_turn_budget_tokens="100",
        idle_timeout_s="60",
    )
    bounded = check(
        profile(
            max_turns=500,
            idle_timeout_s=900,
            sub_agents={"s": {"description": "d", "prompt": "p", "max_turns": 50}},
        ),
        allowed,
    )
    assert bounded.tools == ("Read",)
    assert bounded.models == ("a",)
    assert (bounded.max_turns, bounded.turn_budget_tokens) == (9, 100)
    assert (bounded.idle_timeout_s, bounded.sub_agents["s"].max_turns) == (60, 9)
    modest = check(profile(max_turns=3, turn_budget_tokens=50), allowed)
    assert (modest.max_turns, modest.turn_budget_tokens) == (3, 50)


def test_permissions_only_become_stricter() -> None:
    usual = '{"ask": ["Bash(git push:*)"], "deny": ["WebFetch"], "always": "turn"}'
    own = {"ask": ["Write"], "deny": [], "always": "conversation", "allow": ["Bash"]}
    allowed = policy(permissions=usual)
    told = check(profile(permissions=own), allowed).permissions
    assert told.ask == ("Bash(git push:*)", "Write")
    assert (told.deny, told.always) == (("WebFetch",), "turn")
    stricter = check(profile(permissions={"mode": "plan", "always": "never"}), allowed)
    assert (stricter.permissions.mode, stricter.permissions.always) == ("plan", "never")
    assert check(profile(), allowed).permissions.over(allowed.permissions) == allowed.permissions


def test_a_person_is_told_what_it_may_do() -> None:
    allowed = policy(
        installed_agents_mcp_hosts="a.org",
        installed_agents_mcp_secrets="TOKEN=a.org",
        installed_agents_environment="LANG",
        installed_agents_egress_profiles="pip",
    )
    asked = profile(
        tools=["Bash"],
        egress_profile="pip",
        questions=True,
        environment={"LANG": "C"},
        **server("https://a.org/mcp?x=1", Authorization="${TOKEN}"),
    )
    told = "\n".join(permissions(check(asked, allowed), allowed))
    for line in (
        "tools: Bash",
        "network of its tools: pip",
        "MCP server x: https://a.org:443, sent the secrets TOKEN",
        "environment of its tools: LANG",
        "asks its user",
        "model calls in one turn: at most 200",
    ):
        assert line in told
