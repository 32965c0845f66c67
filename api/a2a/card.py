"""The card of an agent: what others find out about it before they call it.

It says what `GET /v1/models` says of the agent, to the same people, and how to reach it. Nothing of
its prompt, tools, servers or limits.
"""

from __future__ import annotations

from typing import Any

from a2a.types import (
    AgentCapabilities,
    AgentCard,
    AgentInterface,
    AgentSkill,
    HTTPAuthSecurityScheme,
    SecurityRequirement,
    SecurityScheme,
    StringList,
)
from a2a.utils.constants import PROTOCOL_VERSION_1_0, TransportProtocol
from google.protobuf.json_format import MessageToDict

from infra.wire.agents.profile import AgentProfile

INPUT_MODES = ("text/plain", "application/json", "application/octet-stream")
OUTPUT_MODES = ("text/plain", "application/octet-stream")
_SCHEME = "key"
_VERSION_CHARS = 12


def card_of(name: str, profile: AgentProfile, *, url: str) -> dict[str, Any]:
    """The card as JSON. `url` is where this agent is called, without a slash at its end."""
    told = profile.description or f"The agent {name}."
    card = AgentCard(
        name=name,
        description=told,
        version=profile.digest[:_VERSION_CHARS],
        documentation_url=profile.url,
        icon_url=profile.icon if (profile.icon or "").startswith("http") else None,
        supported_interfaces=[
            AgentInterface(
                url=url, protocol_binding=binding.value, protocol_version=PROTOCOL_VERSION_1_0
            )
            for binding in (TransportProtocol.JSONRPC, TransportProtocol.HTTP_JSON)
        ],
        capabilities=AgentCapabilities(
            streaming=True, push_notifications=False, extended_agent_card=False
        ),
        security_schemes={
            _SCHEME: SecurityScheme(
                http_auth_security_scheme=HTTPAuthSecurityScheme(
                    scheme="bearer", description="The caller's own Anthropic API key."
                )
            )
        },
        security_requirements=[SecurityRequirement(schemes={_SCHEME: StringList()})],
        default_input_modes=INPUT_MODES,
        default_output_modes=OUTPUT_MODES,
        skills=[AgentSkill(id=name, name=name, description=told, tags=["agent"])],
    )
    shown: dict[str, Any] = MessageToDict(card)
    return shown
