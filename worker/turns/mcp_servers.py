"""The MCP servers that an agent has in a turn: those whose secrets are all there. Pure."""

from __future__ import annotations

from collections.abc import Container, Mapping

from infra.wire.agents.mcp import McpServer
from infra.wire.agents.profile import AgentProfile
from infra.wire.mcp.secrets import AgentMcpServer, CallerSecrets, header_of


def mcp_servers(
    profile: AgentProfile, sent: CallerSecrets | None, logins: Container[str]
) -> Mapping[str, AgentMcpServer]:
    """The servers as its agent is told of them. `sent`: the secrets that the caller has sent;
    `logins`: the servers at which an operator has logged in."""
    given = _names(sent)
    return {
        name: AgentMcpServer(
            timeout_s=server.timeout_s,
            secrets_version=sent.version if sent is not None and server.callers_secrets else "",
            command=(server.command, *server.args) if server.command else (),
            environment=server.env,
        )
        for name, server in profile.mcp_servers.items()
        if server.callers_secrets <= given and (not server.login or name in logins)
    }


def missing_notices(
    profile: AgentProfile | None, sent: CallerSecrets | None, logins: Container[str]
) -> tuple[str, ...]:
    """What the user is told of servers that the agent does not have in this turn."""
    given = _names(sent)
    servers = profile.mcp_servers if profile is not None else {}
    unknown = tuple(
        f"The MCP server {name} needs a login by its operator; its tools are missing."
        for name, server in servers.items()
        if server.login and name not in logins
    )
    return unknown + tuple(
        f"The MCP server {name} needs {', '.join(map(_header, sorted(missing)))} with the request; "
        "its tools are missing."
        for name, server in servers.items()
        if (missing := server.callers_secrets - given)
    )


def _names(sent: CallerSecrets | None) -> frozenset[str]:
    return frozenset(sent.names) if sent is not None else frozenset()


def _header(secret: str) -> str:
    return f"the header {header_of(secret)}"


def servers_outside(profile: AgentProfile | None) -> Mapping[str, McpServer]:
    """Those that the gateway leads to."""
    servers = profile.mcp_servers if profile is not None else {}
    return {name: server for name, server in servers.items() if server.url is not None}
