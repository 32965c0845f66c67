"""Reads what a caller sends for the MCP servers of the agent that they ask. Pure.

A header each, because request bodies are written down by proxies and tracing more often than
headers: `X-AgCluster-MCP-GITHUB-TOKEN` is what a profile calls `${caller:GITHUB_TOKEN}`. A secret
that the agent does not ask for goes no further, so a client may send all it has with every request.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Set

from infra.wire.errors import RequestRefused
from infra.wire.mcp.secrets import MCP_SECRET_HEADER, header_of

SECRET_MAX_CHARS = 4000
SECRETS_MAX_CHARS = 16_000
"""Of all secrets of a request together."""

_PREFIX = MCP_SECRET_HEADER.lower()
_PLAIN = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")


def is_mcp_secret(header: str) -> bool:
    """Whether a header with this name has a secret for an MCP server."""
    return header.lower().startswith(_PREFIX)


def read_mcp_secrets(headers: Mapping[str, str], *, wanted: Set[str]) -> dict[str, str]:
    """The caller's secrets of these names that the request has.

    Raises `RequestRefused` for one that cannot stand in a header, or that is there twice.
    """
    found: dict[str, str] = {}
    for header, told in headers.items() if wanted else ():
        name = header[len(_PREFIX) :].upper().replace("-", "_")
        if not is_mcp_secret(header) or name not in wanted or not (value := told.strip()):
            continue
        shown = header_of(name)
        if name in found:
            raise RequestRefused(f"The header {shown} is there twice.", param=shown)
        if len(value) > SECRET_MAX_CHARS or not _PLAIN.fullmatch(value):
            raise RequestRefused(
                f"The header {shown} must have at most {SECRET_MAX_CHARS} ASCII characters.",
                param=shown,
            )
        found[name] = value
    if sum(map(len, found.values())) > SECRETS_MAX_CHARS:
        raise RequestRefused(
            f"The headers {MCP_SECRET_HEADER}… have more than {SECRETS_MAX_CHARS} characters "
            "together.",
            param=MCP_SECRET_HEADER,
        )
    return found


def told(secrets: Mapping[str, str]) -> str:
    """The secrets as they are sealed."""
    return json.dumps(secrets, sort_keys=True)
