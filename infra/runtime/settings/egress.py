"""Network access of agents' tools."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, SecretStr

from infra.runtime.settings.types import (
    EgressPolicy,
    EgressProfiles,
    Names,
    Networks,
    Ports,
    Section,
)


class EgressSettings(Section):
    """Where agents' tools may connect, and how much they may transfer."""

    title: ClassVar = "Egress"

    egress: EgressPolicy = Field(
        EgressPolicy.PUBLIC, description="Which hosts an agent's tools may reach."
    )
    egress_allow: Names = Field(
        (), description="Hosts for the policy allowlist; `.example.org` includes its subdomains."
    )
    egress_profiles: EgressProfiles = Field(
        {},
        description='Other policies by name, as JSON: `{"pip": {"policy": "allowlist", "allow": '
        '["pypi.org", "files.pythonhosted.org"]}}`. A request selects one with the header '
        "X-AgCluster-Egress-Profile or metadata.egress_profile, and its conversation keeps it; an "
        "unknown name is 400.",
    )
    mcp_secrets: SecretStr | None = Field(
        None,
        description="Secrets that the headers of agents' MCP servers name, as JSON: "
        '`{"GITHUB_TOKEN": "..."}` (docs/how-to/mcp.md). Only gateways read them.',
    )
    egress_ports: Ports = Field(
        (80, 443), description="Ports that tools may reach: HTTP, HTTPS, git over HTTPS."
    )
    egress_deny: Networks = Field(
        (),
        description="Networks that tools may never reach, in addition to private ones: the "
        "cluster's own public addresses. You need not list those of the gateway's machine, or of "
        "Redis as its name resolves at startup. A gateway in a container (`compose.yaml`) does not "
        "know its host's addresses: list them.",
    )
    egress_connections_max: int = Field(
        64, gt=0, description="Concurrent connections of one agent's tools; beyond it 429."
    )
    egress_connections_per_minute: int = Field(
        1200,
        ge=0,
        description="New connections of one agent's tools per minute; beyond it they "
        "wait, then 429. 0: no limit.",
    )
    egress_bytes_per_s: int = Field(
        64 * 1024 * 1024,
        ge=0,
        description="Bytes per second of one agent's tools, both directions together. 0: no limit.",
    )
    egress_turn_bytes_max: int = Field(
        8 * 1024**3,
        gt=0,
        description="Bytes of one turn's tools, both directions together; beyond it they are cut "
        "off.",
    )
    egress_idle_timeout_s: float = Field(
        300.0, gt=0, description="A tool's connection that is silent for this long is closed."
    )

    @property
    def has_egress(self) -> bool:
        """Whether any agent of the deployment may have network access."""
        policies = (self.egress, *(profile.policy for profile in self.egress_profiles.values()))
        return any(policy is not EgressPolicy.NONE for policy in policies)
