"""The MCP servers as a CLI is told of them."""

from __future__ import annotations

from claude_agent_sdk.types import McpServerConfig

from infra.wire.link import AgentSettings
from infra.wire.mcp import AgentMcpServer


def mcp_config(settings: AgentSettings) -> dict[str, McpServerConfig]:
    """The servers by name. The CLI has it in its arguments, so there is nothing secret in it."""
    return {name: _http(name, server) for name, server in settings.mcp.items()}


def mcp_url(name: str) -> str:
    """Where an MCP server is, for a CLI: the gateway leads there."""
    return f"http://{name}.mcp.internal/"


def _http(name: str, server: AgentMcpServer) -> McpServerConfig:
    # The SDK passes on what it does not know.
    timeout = {"timeout": round(server.timeout_s * 1000)}
    return {"type": "http", "url": mcp_url(name), **timeout}  # type: ignore[return-value]
