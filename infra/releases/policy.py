"""What an operator lets installed agents do, put together from the settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from infra.runtime.settings import AgentDefaults, InstalledAgentSettings, ModelSettings
from infra.wire.agents.permissions import Permissions


@dataclass(frozen=True)
class InstalledPolicy:
    """The most that an agent may have that was installed from the registry."""

    tools: frozenset[str]
    usual_tools: tuple[str, ...]
    """What an agent gets that names no tools: the deployment's, as far as they are allowed."""
    models: tuple[str, ...]
    """Empty: all that the deployment offers."""
    sub_agent_models: frozenset[str]
    egress_profiles: frozenset[str]
    may_go_out_as_usual: bool
    mcp_hosts: tuple[str, ...]
    mcp_secrets: Mapping[str, str]
    """Secrets by name, and the host that each may be sent to."""
    environment: frozenset[str]
    may_run_mcp_servers: bool
    permissions: Permissions
    """The deployment's, which an agent may only make stricter."""
    images: frozenset[str]
    max_turns: int
    idle_timeout_s: float
    turn_budget_tokens: int | None


def policy_of(
    settings: InstalledAgentSettings, *, agents: AgentDefaults, models: ModelSettings
) -> InstalledPolicy:
    """The policy of a deployment."""
    given = settings.installed_agents_tools
    tools = frozenset(agents.tools if given is None else given)
    named = settings.installed_agents_models
    offered = (*models.models, *models.model_aliases, *models.open_models)
    return InstalledPolicy(
        tools=tools,
        usual_tools=tuple(tool for tool in agents.tools if tool in tools),
        models=named,
        sub_agent_models=frozenset(named or offered),
        egress_profiles=frozenset(settings.installed_agents_egress_profiles),
        may_go_out_as_usual=settings.installed_agents_usual_egress,
        mcp_hosts=settings.installed_agents_mcp_hosts,
        mcp_secrets=settings.installed_agents_mcp_secrets,
        environment=frozenset(settings.installed_agents_environment),
        may_run_mcp_servers=settings.installed_agents_mcp_commands,
        permissions=agents.permissions or Permissions(),
        images=frozenset(settings.installed_agents_images),
        max_turns=settings.installed_agents_max_turns or agents.max_turns,
        idle_timeout_s=agents.idle_timeout_s,
        turn_budget_tokens=settings.installed_agents_turn_budget_tokens,
    )
