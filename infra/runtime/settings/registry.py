"""Settings of the registry, and of agents that were installed from it."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field

from infra.runtime.settings.types import Aliases, Names, Section

_PUBLISHER = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?")
_KEYS = re.compile(r"[0-9a-f]{64}(?: +[0-9a-f]{64})*")


def _keys(keys: dict[str, str]) -> dict[str, str]:
    for name, given in keys.items():
        if not _PUBLISHER.fullmatch(name):
            raise ValueError(
                f"a publisher's name has small letters, digits and - between them ({name!r})"
            )
        if not _KEYS.fullmatch(given):
            raise ValueError(
                f"the key of {name} must be 64 hex digits, several with spaces between"
            )
    return keys


PublicKeys = Annotated[Aliases, AfterValidator(_keys)]
OptionalNames = Annotated[Names | None, BeforeValidator(lambda value: value or None)]


class RegistrySettings(Section):
    """The catalogue of agents and MCP servers."""

    title: ClassVar = "The registry"

    registry_open: bool = Field(
        False,
        description="The catalogue (`/v0.1/servers`, `/v0.1/agents`) may be read without a key: "
        "what is for all tenants. Many clients of MCP registries send no key.",
    )
    agent_publishers: PublicKeys = Field(
        {},
        description="Publishers whose agents may be published and installed here, and their public "
        "keys, as pairs: acme=64 hex digits (`agcluster agents key new` shows them). Several keys "
        "of one are separated by spaces. One that is removed takes its installed agents with it.",
    )


class InstalledAgentSettings(Section):
    """What agents that were installed from the registry may do, whatever their releases ask for."""

    title: ClassVar = "Installed agents"

    installed_agents_tools: OptionalNames = Field(
        None, description="Tools that they may have. Unset: those of AGCLUSTER_TOOLS."
    )
    installed_agents_models: Names = Field(
        (), description="Models that they may use. Empty: all that the deployment offers."
    )
    installed_agents_egress_profiles: Names = Field(
        (), description="Egress profiles that they may name."
    )
    installed_agents_usual_egress: bool = Field(
        True,
        description="They may name no egress profile, and then go out as the usual agent does.",
    )
    installed_agents_mcp_hosts: Names = Field(
        (),
        description="Hosts of MCP servers that they may use: `mcp.example.org` by https, "
        "`mcp.example.org:8443`, `http://…` in the clear; `.example.org` includes subdomains. "
        "Empty: none.",
    )
    installed_agents_mcp_secrets: Aliases = Field(
        {},
        description="Secrets that their MCP servers may be sent, and the host that each may be "
        "sent to, as pairs: GITHUB_TOKEN=api.githubcopilot.com; caller:NAME for what callers send.",
    )
    installed_agents_mcp_commands: bool = Field(
        False, description="They may run MCP servers in their container (`command`)."
    )
    installed_agents_environment: Names = Field(
        (), description="Environment variables that they may set for their tools."
    )
    installed_agents_images: Names = Field(
        (), description="Images of AGCLUSTER_AGENT_IMAGES that their containers may have."
    )
    installed_agents_max_turns: int | None = Field(
        None,
        gt=0,
        description="Most model calls in one of their turns. Unset: AGCLUSTER_MAX_TURNS.",
    )
    installed_agents_turn_budget_tokens: int | None = Field(
        None,
        gt=0,
        description="Most tokens that one of their turns may spend. Unset: as for the usual agent.",
    )
