"""MCP servers as people and operators read of them: names of tools, states. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from agent.translate.tools import clean_line
from infra.wire.mcp.secrets import ServerSeen

LastWords = Callable[[str], str | None]
"""What a server in the container wrote last to its standard error."""

WORDS_MAX_CHARS = 200

_TOOL = re.compile(r"mcp__([a-z][a-z0-9-]{0,39})__(.+)")
_UNUSABLE = frozenset({"failed", "pending", "needs-auth"})


def shown_name(tool: str) -> str:
    """`github: search` for `mcp__github__search`; other names as they are."""
    found = _TOOL.fullmatch(tool)
    return f"{found[1]}: {found[2]}" if found else tool


def servers_seen(init: Mapping[str, Any], last_words: LastWords) -> Iterator[ServerSeen]:
    """How the servers are, for operators. What is not in form is left out."""
    servers, tools = init.get("mcp_servers"), init.get("tools")
    names = [tool for tool in tools if isinstance(tool, str)] if isinstance(tools, list) else []
    for server in servers if isinstance(servers, list) else ():
        name, status = (str(server.get(key)) for key in ("name", "status"))
        words = last_words(name) if status in _UNUSABLE else None
        with suppress(ValueError):
            yield ServerSeen(
                name=name,
                status=status,
                tools=sum(tool.startswith(f"mcp__{name}__") for tool in names),
                detail=clean_line(words, max_chars=WORDS_MAX_CHARS) if words else "",
            )


def missing_servers(init: Mapping[str, Any], last_words: LastWords) -> Iterator[str]:
    """A sentence for each server that cannot be used in this turn."""
    servers = init.get("mcp_servers")
    for server in servers if isinstance(servers, list) else ():
        match server:
            case {"name": str() as name, "status": str() as status} if status in _UNUSABLE:
                why = "asks for a login" if status == "needs-auth" else "does not answer"
                said = last_words(name)
                told = f" It wrote: {clean_line(said, max_chars=WORDS_MAX_CHARS)}" if said else ""
                yield f"The MCP server {name} {why}; its tools are missing.{told}"
