"""The MCP servers as a CLI is told of them."""

from __future__ import annotations

import sys
from pathlib import Path

from claude_agent_sdk.types import McpServerConfig

from infra.wire.link import AgentSettings
from infra.wire.mcp.secrets import AgentMcpServer

LOCAL_WAIT_MS = "9000"
LAUNCHER = Path(__file__).with_name("mcp_launcher.py")


def mcp_config(settings: AgentSettings, *, words: Path) -> dict[str, McpServerConfig]:
    """The servers by name. The CLI has it in its arguments, so there is nothing secret in it.

    `words` is the socket for what servers in the container write to standard error.
    """
    return {
        name: _local(name, server, words) if server.command else _http(name, server)
        for name, server in settings.mcp.items()
    }


def startup_wait(settings: AgentSettings) -> dict[str, str]:
    """How long a first turn waits for servers that do not answer, if that is not as usual. Those in
    the container have to start; one that ends is not waited for."""
    is_any_local = any(server.command for server in settings.mcp.values())
    return {"CLAUDE_CODE_MCP_STARTUP_WAIT_MS": LOCAL_WAIT_MS} if is_any_local else {}


def mcp_url(name: str) -> str:
    """Where an MCP server is, for a CLI: the gateway leads there."""
    return f"http://{name}.mcp.internal/"


def _http(name: str, server: AgentMcpServer) -> McpServerConfig:
    return {"type": "http", "url": mcp_url(name), **_timeout(server)}  # type: ignore[return-value]


def _local(name: str, server: AgentMcpServer, words: Path) -> McpServerConfig:
    variables = ",".join(server.environment)
    # `-I -S`: nothing of the workspace or of installed packages runs in the launcher.
    launcher = ("-I", "-S", "-B", str(LAUNCHER), str(words), name, variables, "--")
    told = {
        "type": "stdio",
        "command": sys.executable,
        "args": [*launcher, *server.command],
        "env": dict(server.environment),
    }
    return {**told, **_timeout(server)}  # type: ignore[return-value]


def _timeout(server: AgentMcpServer) -> dict[str, int]:
    """The SDK passes on what it does not know."""
    return {"timeout": round(server.timeout_s * 1000)}
