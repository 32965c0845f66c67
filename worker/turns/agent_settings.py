"""The settings with which an agent works on a turn: the request's, otherwise those of its profile,
otherwise the deployment's. Pure."""

from __future__ import annotations

from collections.abc import Container

from infra.runtime.settings.agents import AgentDefaults
from infra.runtime.settings.models import ModelSettings
from infra.wire.agents.delegation import Delegate
from infra.wire.agents.permissions import Permissions
from infra.wire.agents.profile import AgentProfile
from infra.wire.link import AgentSettings
from infra.wire.turns import TurnRequest
from worker.turns.mcp_servers import mcp_servers

SKILL_TOOL = "Skill"
"""The tool by which an agent uses a skill. One with skills has it, whatever its tools are."""
AGENT_SHARE_OF_GRACE = 0.6
"""The part of the grace time that the agent may use before it kills its CLI; the rest is ours."""


def agent_settings(
    request: TurnRequest,
    agents: AgentDefaults,
    models: ModelSettings,
    *,
    profile: AgentProfile | None = None,
    logins: Container[str] = (),
) -> AgentSettings:
    """The settings in the turn's `StartTurn`. `profile` is its agent's; None for the usual one.
    `logins` are the MCP servers at which an operator has logged in."""
    settings = usual_settings(agents, models).model_copy(update={"is_called": _is_called(request)})
    if profile is not None:
        return _of_profile(settings, profile, agents, models).model_copy(
            update={
                "mcp": mcp_servers(profile, request.turn_options.mcp_secrets, logins),
                "model": request.model,
                "system_prompt": _prompt(profile, request.system_prompt),
                "is_prompt_added": profile.system_prompt is not None
                and profile.system_prompt.mode == "append",
                "delegates": _delegates(request, profile, agents),
            }
        )
    return settings.model_copy(
        update={
            "model": request.model,
            "system_prompt": request.system_prompt or agents.system_prompt,
        }
    )


def _is_called(request: TurnRequest) -> bool:
    return request.delegation is not None and request.delegation.caller is not None


def usual_settings(agents: AgentDefaults, models: ModelSettings) -> AgentSettings:
    """The settings of a turn whose request wants nothing special. Spares are prepared for them."""
    return AgentSettings(
        model=models.models[0],
        system_prompt=agents.system_prompt,
        tools=agents.tools,
        model_tiers=models.model_tiers,
        max_turns=agents.max_turns,
        asks_questions=agents.questions,
        permissions=_usual_permissions(agents).in_effect,
        interrupt_grace_s=agents.disconnect_grace_s * AGENT_SHARE_OF_GRACE,
    )


def _usual_permissions(agents: AgentDefaults) -> Permissions:
    return agents.permissions or Permissions()


def models_of_turn(
    request: TurnRequest, models: ModelSettings, *, profile: AgentProfile | None = None
) -> tuple[str, ...]:
    """The models that the turn's agent and its sub-agents may call."""
    if profile is None:
        return models.models_of_turn(request.model)
    return tuple(dict.fromkeys((request.model, *_open_models(profile, models))))


def delegates_of(
    request: TurnRequest, profile: AgentProfile | None, agents: AgentDefaults
) -> dict[str, Delegate]:
    """The agents that the turn's agent may call, by name: those that its profile lists and its
    caller may use, unless too many callers stand above it."""
    given = request.delegation
    if profile is None or given is None or given.depth >= agents.delegation_depth:
        return {}
    return {name: given.reached[name] for name in profile.delegates if name in given.reached}


def _delegates(
    request: TurnRequest, profile: AgentProfile, agents: AgentDefaults
) -> dict[str, str]:
    found = delegates_of(request, profile, agents)
    return {name: one.description for name, one in found.items()}


def _of_profile(
    settings: AgentSettings, profile: AgentProfile, agents: AgentDefaults, models: ModelSettings
) -> AgentSettings:
    update: dict[str, object] = {
        "sub_agents": profile.sub_agents,
        "environment": profile.environment,
        "model_tiers": models.tiers_of(_open_models(profile, models)),
        "permissions": profile.permissions.over(_usual_permissions(agents)).in_effect,
    }
    if profile.tools is not None:
        update["tools"] = profile.tools
    if profile.skills:
        update["skills"] = profile.skill_names
        tools = profile.tools if profile.tools is not None else settings.tools
        update["tools"] = tuple(dict.fromkeys((*tools, SKILL_TOOL)))
    if profile.questions is not None:
        update["asks_questions"] = profile.questions
    if profile.max_turns is not None:
        update["max_turns"] = profile.max_turns
    return settings.model_copy(update=update)


def _prompt(profile: AgentProfile, clients: str | None) -> str | None:
    """The profile's prompt, with the client's instructions behind it: the operator's come first."""
    own = profile.system_prompt.text if profile.system_prompt else None
    return "\n\n".join(part for part in (own, clients) if part) or None


def _open_models(profile: AgentProfile, models: ModelSettings) -> tuple[str, ...]:
    """The models of a profile that lists some, otherwise the deployment's; and those that its
    sub-agents name."""
    named = [one.model for one in profile.sub_agents.values() if one.model is not None]
    asked = (*profile.models, *(name for name in named if name not in models.model_tiers))
    known = tuple(models.resolve_model(name) or name for name in asked)
    return known if profile.models else (*models.open_models, *known)
