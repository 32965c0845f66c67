"""The settings with which an agent works on a turn: the request's, otherwise the deployment's.
Pure."""

from __future__ import annotations

from infra.runtime.settings.agents import AgentDefaults
from infra.runtime.settings.models import ModelSettings
from infra.wire.link import AgentSettings
from infra.wire.turns import TurnRequest

AGENT_SHARE_OF_GRACE = 0.6
"""The part of the grace time that the agent may use before it kills its CLI; the rest is ours."""


def agent_settings(
    request: TurnRequest, agents: AgentDefaults, models: ModelSettings
) -> AgentSettings:
    """The settings in the turn's `StartTurn`."""
    settings = usual_settings(agents, models)
    return settings.model_copy(
        update={
            "model": request.model,
            "system_prompt": request.system_prompt or agents.system_prompt,
        }
    )


def usual_settings(agents: AgentDefaults, models: ModelSettings) -> AgentSettings:
    """The settings of a turn whose request wants nothing special. Spares are prepared for them."""
    return AgentSettings(
        model=models.models[0],
        system_prompt=agents.system_prompt,
        tools=agents.tools,
        model_tiers=models.model_tiers,
        max_turns=agents.max_turns,
        interrupt_grace_s=agents.disconnect_grace_s * AGENT_SHARE_OF_GRACE,
    )
