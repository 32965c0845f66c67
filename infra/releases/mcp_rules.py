"""What installed agents may do with MCP servers: which hosts, which secrets, which programs."""

from __future__ import annotations

import re
from collections.abc import Iterable

from infra.releases.origins import is_listed, origin_of
from infra.releases.policy import InstalledPolicy
from infra.wire.agents.mcp import McpServer
from infra.wire.agents.profile import AgentProfile

SECRET = re.compile(r"\$\{([^}]*)\}")


def mcp_told(profile: AgentProfile, _: InstalledPolicy) -> Iterable[str]:
    """A line for each server: where it is, and what it is sent."""
    for name, server in profile.mcp_servers.items():
        if server.command is not None:
            yield f"MCP server {name} in its container: {' '.join((server.command, *server.args))}"
            continue
        secrets = sorted(secrets_of(server))
        sent = f", sent the secrets {', '.join(secrets)}" if secrets else ""
        yield f"MCP server {name}: {_origin(server)}{sent}"


def mcp_faults(profile: AgentProfile, policy: InstalledPolicy) -> Iterable[str]:
    """What of them the policy does not allow."""
    for name, server in profile.mcp_servers.items():
        where = f"mcp_servers.{name}"
        if server.command is not None and not policy.may_run_mcp_servers:
            yield f"{where}: command not allowed (AGCLUSTER_INSTALLED_AGENTS_MCP_COMMANDS)"
        if server.url is not None and not is_listed(server.url, policy.mcp_hosts):
            yield f"{where}: {_origin(server)} not allowed (AGCLUSTER_INSTALLED_AGENTS_MCP_HOSTS)"
        if server.login:
            yield f"{where}.login: installed agents have none of the operator's logins"
        for variable in server.env:
            if variable not in policy.environment:
                yield (
                    f"{where}.env.{variable}: not allowed (AGCLUSTER_INSTALLED_AGENTS_ENVIRONMENT)"
                )
        for secret in sorted(secrets_of(server)):
            host = policy.mcp_secrets.get(secret)
            if host is None or not is_listed(server.url or "", (host,)):
                yield (
                    f"{where}: the secret {secret} must not be sent there "
                    "(AGCLUSTER_INSTALLED_AGENTS_MCP_SECRETS)"
                )


def _origin(server: McpServer) -> str:
    return origin_of(server.url or "") or "its host"


def secrets_of(server: McpServer) -> set[str]:
    """The names of the secrets that its headers have: the deployment's, and `caller:NAME`."""
    return {name for value in server.headers.values() for name in SECRET.findall(value)}
