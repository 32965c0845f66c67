"""Field by field: what an installed agent's profile may say, and what a person is told of it.

A field that stands in no table here is refused, so that a field which a later version adds opens
nothing that nobody has thought of. A test compares the tables with the profile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from pydantic import BaseModel

from infra.releases.mcp_rules import mcp_faults, mcp_told
from infra.releases.policy import InstalledPolicy
from infra.releases.refused import ReleaseRefused
from infra.wire.agents.container import ContainerLimits
from infra.wire.agents.mcp import McpServer
from infra.wire.agents.part import ProfilePart, is_reserved
from infra.wire.agents.permissions import RULES_MAX, Permissions
from infra.wire.agents.profile import AgentProfile, SystemPrompt
from infra.wire.agents.sub_agent import SubAgent

TIERS = frozenset({"haiku", "sonnet", "opus", "fable"})

Lines = Iterable[str]


def _nothing(_: AgentProfile, __: InstalledPolicy) -> Lines:
    return ()


def _as_it_is(_: AgentProfile, __: InstalledPolicy) -> Mapping[str, object]:
    return {}


@dataclass(frozen=True)
class FieldRule:
    """One field: what it asks for, what of that is too much, and what it becomes."""

    permissions: Callable[[AgentProfile, InstalledPolicy], Lines] = _nothing
    faults: Callable[[AgentProfile, InstalledPolicy], Lines] = _nothing
    bounded: Callable[[AgentProfile, InstalledPolicy], Mapping[str, object]] = _as_it_is


HARMLESS = FieldRule()
"""What it says concerns nobody but the agent itself, or those who talk to it."""


def check(profile: AgentProfile, policy: InstalledPolicy) -> AgentProfile:
    """The profile as it may be used: numbers bounded by the policy. Raises `ReleaseRefused`."""
    faults = list(_undecided(profile))
    for rule in RULES.values():
        faults.extend(rule.faults(profile, policy))
    if faults:
        raise ReleaseRefused(*faults)
    changes: dict[str, object] = {}
    for rule in RULES.values():
        changes |= rule.bounded(profile, policy)
    return profile.model_copy(update=changes)


def permissions(profile: AgentProfile, policy: InstalledPolicy) -> list[str]:
    """What the agent will be able to do, one thing a line, for the person who installs it.

    `profile` as `check` has returned it.
    """
    return [line for rule in RULES.values() for line in rule.permissions(profile, policy)]


def _undecided(profile: AgentProfile) -> Iterator[str]:
    for part in _parts(profile):
        decided = RULES if isinstance(part, AgentProfile) else PARTS.get(type(part), frozenset())
        for name in sorted(part.model_fields_set):
            if name not in decided and getattr(part, name) != _default(part, name):
                yield f"{name}: this version does not let installed agents have it"


def _parts(value: object) -> Iterator[ProfilePart]:
    if isinstance(value, ProfilePart):
        yield value
        for name in type(value).model_fields:
            yield from _parts(getattr(value, name))
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _parts(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _parts(one)


def _default(part: BaseModel, name: str) -> object:
    return type(part).model_fields[name].get_default(call_default_factory=True)


# Tools


def _tools_told(profile: AgentProfile, policy: InstalledPolicy) -> Lines:
    yield f"tools: {_list(profile.tools or ())}"


def _tools_faults(profile: AgentProfile, policy: InstalledPolicy) -> Lines:
    named = {"tools": profile.tools or ()} | {
        f"sub_agents.{name}.tools": one.tools or () for name, one in profile.sub_agents.items()
    }
    for field, tools in named.items():
        if extra := [tool for tool in tools if tool not in policy.tools]:
            yield f"{field}: {_list(extra)} not allowed (AGCLUSTER_INSTALLED_AGENTS_TOOLS)"


def _tools_bounded(profile: AgentProfile, policy: InstalledPolicy) -> Mapping[str, object]:
    return {"tools": policy.usual_tools} if profile.tools is None else {}


# Models


def _models_told(profile: AgentProfile, _: InstalledPolicy) -> Lines:
    yield f"models: {_list(profile.models) if profile.models else 'all that are offered'}"


def _models_faults(profile: AgentProfile, policy: InstalledPolicy) -> Lines:
    setting = "AGCLUSTER_INSTALLED_AGENTS_MODELS"
    asked = [*profile.models, *([profile.model] if profile.model else [])]
    if policy.models and (extra := [name for name in asked if name not in policy.models]):
        yield f"models: {_list(extra)} not allowed ({setting})"


def _models_bounded(profile: AgentProfile, policy: InstalledPolicy) -> Mapping[str, object]:
    return {} if profile.models else {"models": policy.models}


def _sub_agents_told(profile: AgentProfile, _: InstalledPolicy) -> Lines:
    for name, one in profile.sub_agents.items():
        tools = "the agent's tools" if one.tools is None else f"tools: {_list(one.tools)}"
        yield f"sub-agent {name}: {tools}; model: {one.model or 'the agent’s'}"


def _sub_agents_faults(profile: AgentProfile, policy: InstalledPolicy) -> Lines:
    for name, one in profile.sub_agents.items():
        if one.model and one.model not in TIERS | policy.sub_agent_models:
            yield (
                f"sub_agents.{name}.model: {one.model} not allowed "
                "(AGCLUSTER_INSTALLED_AGENTS_MODELS, AGCLUSTER_MODELS)"
            )


def _sub_agents_bounded(profile: AgentProfile, policy: InstalledPolicy) -> Mapping[str, object]:
    most = policy.max_turns
    bounded = {
        name: one.model_copy(update={"max_turns": min(one.max_turns or most, most)})
        for name, one in profile.sub_agents.items()
    }
    return {"sub_agents": bounded} if bounded else {}


def _delegates_faults(profile: AgentProfile, _: InstalledPolicy) -> Lines:
    if profile.delegates:
        yield "delegates: installed agents call no other agents"


# What its user is asked about


def _permissions_told(profile: AgentProfile, policy: InstalledPolicy) -> Lines:
    counting = profile.permissions.over(policy.permissions)
    yield {
        "ask": "asks before each call of a tool that does not only read",
        "plan": "presents a plan before it changes anything",
    }.get(counting.mode or "", "asks before no call, unless a rule says so")
    for word, rules in (("asks", counting.ask), ("need not ask", counting.allow)):
        if rules:
            yield f"calls that {word}: {_list(rules)}"


def _permissions_faults(profile: AgentProfile, policy: InstalledPolicy) -> Lines:
    own, usual = profile.permissions, policy.permissions
    if usual.mode not in (None, "default"):
        if own.mode not in (None, usual.mode):
            yield f"permissions.mode: the deployment's is {usual.mode} (AGCLUSTER_PERMISSIONS)"
        if extra := [rule for rule in own.allow or () if rule not in (usual.allow or ())]:
            yield f"permissions.allow: {_list(extra)} not allowed (AGCLUSTER_PERMISSIONS)"
    for name in ("ask", "deny"):
        if len(_joined(profile, policy, name)) > RULES_MAX:
            yield f"permissions.{name}: with the deployment's more than {RULES_MAX} rules"


def _permissions_bounded(profile: AgentProfile, policy: InstalledPolicy) -> Mapping[str, object]:
    own, usual = profile.permissions, policy.permissions
    changes: dict[str, object] = {
        name: _joined(profile, policy, name)
        for name in ("ask", "deny")
        if getattr(own, name) is not None
    }
    if own.always is not None and usual.always is not None:
        changes["always"] = min(own.always, usual.always, key=_ALWAYS.index)
    return {"permissions": own.model_copy(update=changes)} if changes else {}


def _joined(profile: AgentProfile, policy: InstalledPolicy, name: str) -> tuple[str, ...]:
    """The deployment's rules and the agent's: one that restricts is never lost."""
    both = (getattr(policy.permissions, name), getattr(profile.permissions, name))
    return tuple(dict.fromkeys(rule for rules in both for rule in rules or ()))


_ALWAYS = ("never", "turn", "conversation")
"""How long a yes counts, the strictest first."""


# The ways out


def _egress_told(profile: AgentProfile, _: InstalledPolicy) -> Lines:
    named = profile.egress_profile
    yield f"network of its tools: {named or 'as for the usual agent'}"


def _egress_faults(profile: AgentProfile, policy: InstalledPolicy) -> Lines:
    named = profile.egress_profile
    if named is None and not policy.may_go_out_as_usual:
        yield (
            "egress_profile: must name one of AGCLUSTER_INSTALLED_AGENTS_EGRESS_PROFILES: "
            f"{_list(sorted(policy.egress_profiles))}"
        )
    if named is not None and named not in policy.egress_profiles:
        yield (f"egress_profile: {named} not allowed (AGCLUSTER_INSTALLED_AGENTS_EGRESS_PROFILES)")


# The rest


def _environment_told(profile: AgentProfile, _: InstalledPolicy) -> Lines:
    if profile.environment:
        yield f"environment of its tools: {_list(sorted(profile.environment))}"


def _environment_faults(profile: AgentProfile, policy: InstalledPolicy) -> Lines:
    for name in profile.environment:
        if name not in policy.environment or is_reserved(name):
            yield f"environment.{name}: not allowed (AGCLUSTER_INSTALLED_AGENTS_ENVIRONMENT)"


def _turns_told(profile: AgentProfile, _: InstalledPolicy) -> Lines:
    yield f"model calls in one turn: at most {profile.max_turns}"


def _turns_bounded(profile: AgentProfile, policy: InstalledPolicy) -> Mapping[str, object]:
    return {"max_turns": min(profile.max_turns or policy.max_turns, policy.max_turns)}


def _budget_told(profile: AgentProfile, _: InstalledPolicy) -> Lines:
    most = profile.turn_budget_tokens
    yield f"tokens of one turn: {f'at most {most:,}' if most else 'as for the usual agent'}"


def _budget_bounded(profile: AgentProfile, policy: InstalledPolicy) -> Mapping[str, object]:
    given = (profile.turn_budget_tokens, policy.turn_budget_tokens)
    return {"turn_budget_tokens": min((n for n in given if n is not None), default=None)}


def _idle_bounded(profile: AgentProfile, policy: InstalledPolicy) -> Mapping[str, object]:
    own = profile.idle_timeout_s
    return {} if own is None else {"idle_timeout_s": min(own, policy.idle_timeout_s)}


def _image_told(profile: AgentProfile, _: InstalledPolicy) -> Lines:
    if profile.image:
        yield f"image of its containers: {profile.image}"


def _image_faults(profile: AgentProfile, policy: InstalledPolicy) -> Lines:
    if profile.image and profile.image not in policy.images:
        yield f"image: {profile.image} not allowed (AGCLUSTER_INSTALLED_AGENTS_IMAGES)"


def _questions_told(profile: AgentProfile, _: InstalledPolicy) -> Lines:
    if profile.questions:
        yield "asks its user in the middle of the work"


def _client_tools_told(profile: AgentProfile, _: InstalledPolicy) -> Lines:
    if profile.client_tools:
        yield f"functions of clients: {profile.client_tools}"


def _skills_told(profile: AgentProfile, _: InstalledPolicy) -> Lines:
    if profile.skills:
        yield f"skills: {_list(profile.skill_names)}"


def _workspace_told(profile: AgentProfile, _: InstalledPolicy) -> Lines:
    if profile.workspace:
        yield "puts files of its own into a new workspace"


def _icon_faults(profile: AgentProfile, _: InstalledPolicy) -> Lines:
    icon = profile.icon or ""
    if len(icon) > 8 and not icon.startswith("https://"):
        yield "icon: must be an emoji or an https URL"


def _url_faults(profile: AgentProfile, _: InstalledPolicy) -> Lines:
    if profile.url and not profile.url.startswith(("https://", "http://")):
        yield "url: must be an http or https URL"


def _tenants_faults(profile: AgentProfile, _: InstalledPolicy) -> Lines:
    if profile.tenants:
        yield "tenants: are the deployment's to say (`agents install --tenant`), not a release's"


def _list(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


RULES: Mapping[str, FieldRule] = {
    "description": HARMLESS,
    "icon": FieldRule(faults=_icon_faults),
    "url": FieldRule(faults=_url_faults),
    "system_prompt": HARMLESS,
    "tools": FieldRule(_tools_told, _tools_faults, _tools_bounded),
    "sub_agents": FieldRule(_sub_agents_told, _sub_agents_faults, _sub_agents_bounded),
    "models": FieldRule(_models_told, _models_faults, _models_bounded),
    "model": HARMLESS,
    "delegates": FieldRule(faults=_delegates_faults),
    "egress_profile": FieldRule(_egress_told, _egress_faults),
    "mcp_servers": FieldRule(mcp_told, mcp_faults),
    "environment": FieldRule(_environment_told, _environment_faults),
    "image": FieldRule(_image_told, _image_faults),
    "client_tools": FieldRule(_client_tools_told),
    "structured_output": HARMLESS,
    "tool_display": HARMLESS,
    "artifact_display": HARMLESS,
    "skills": FieldRule(_skills_told),
    "workspace": FieldRule(_workspace_told),
    # Made of the files when the profile is read.
    "bundle": HARMLESS,
    "effort": HARMLESS,
    # Of two limits the worker takes the smaller one.
    "container": HARMLESS,
    "workspace_max_mb": HARMLESS,
    "permissions": FieldRule(_permissions_told, _permissions_faults, _permissions_bounded),
    "questions": FieldRule(_questions_told),
    "max_turns": FieldRule(_turns_told, bounded=_turns_bounded),
    "turn_budget_tokens": FieldRule(_budget_told, bounded=_budget_bounded),
    # The API takes the deployment's where that is shorter.
    "turn_deadline_s": HARMLESS,
    "idle_timeout_s": FieldRule(bounded=_idle_bounded),
    "tenants": FieldRule(faults=_tenants_faults),
}
"""Every field of a profile, in the order in which people are told of them."""

PARTS: Mapping[type[ProfilePart], frozenset[str]] = {
    SystemPrompt: frozenset({"text", "mode"}),
    ContainerLimits: frozenset({"memory_mb", "cpus", "pids"}),
    Permissions: frozenset({"mode", "ask", "allow", "deny", "always", "unanswered"}),
    SubAgent: frozenset({"description", "prompt", "tools", "model", "max_turns"}),
    McpServer: frozenset({"url", "headers", "login", "timeout_s", "command", "args", "env"}),
}
"""The parts of a profile and their fields, which the rules of the fields above look at."""
