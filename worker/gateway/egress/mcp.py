"""The way to an agent's MCP servers: `http://NAME.mcp.internal/` inside, the real server outside.

The gateway knows each server's address and adds its headers, secrets included; the agent knows
neither. One request a connection, with a body of known length that is read before anything is sent:
what else an agent writes never reaches the server. Only the server's own path can be asked for, so
discovery of logins finds nothing. The server may be on a private network, because an operator has
named it.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from infra.wire.agents.mcp import McpServer
from infra.wire.mcp.secrets import REFERENCE
from worker.gateway.egress.request import ProxyRequest, authority_of, opening

SUFFIX = ".mcp.internal"
BODY_MAX_BYTES = 4 * 1024 * 1024
CONNECT_TIMEOUT_S = 10.0
TIMEOUT_SLACK_S = 5.0
"""The agent ends a call first, because it knows what to say about it."""

_METHODS = frozenset({"POST", "DELETE"})
"""A GET would be a stream of the server's own messages; the protocol allows a server to have none,
and it would hold a connection between turns."""
_LENGTH = re.compile(r"[0-9]{1,9}")
_NEVER_PASSED = frozenset({"authorization", "cookie", "x-api-key", "transfer-encoding", "expect"})


class McpRefused(Exception):
    """A request to an MCP server is refused. `detail` is for the log only."""

    def __init__(self, status: int, message: str, *, detail: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.detail = detail


@dataclass(frozen=True)
class McpRequest:
    """Where to connect, and what to send there: the head, then a body of that many bytes."""

    host: str
    port: int
    is_tls: bool
    head: bytes
    body_bytes: int
    timeout_s: float
    """How long the whole answer may take."""


class McpSecrets:
    """The operator's secrets that headers of MCP servers name."""

    def __init__(self, told: str = "") -> None:
        """`told`: a JSON object of names and values. Raises `ValueError` for anything else."""
        values = json.loads(told) if told else {}
        if not isinstance(values, dict) or not all(map(is_plain, values.values())):
            raise ValueError("must be a JSON object of names and texts of one line")
        self._values: Mapping[str, str] = values

    def put_into(self, text: str, callers: Mapping[str, str]) -> str:
        """The text with the secrets that it names, those of the caller included.

        Raises `KeyError` for one that is not there. What a secret itself says is not looked at.
        """
        return REFERENCE.sub(
            lambda found: callers[found[1]] if found[1] else self._values[found[2]], text
        )


def is_mcp(request: ProxyRequest) -> bool:
    """Whether the request is meant for an MCP server."""
    return request.host.endswith(SUFFIX)


def request_to(
    request: ProxyRequest,
    servers: Mapping[str, McpServer],
    secrets: McpSecrets,
    callers: Mapping[str, str],
    token_of: Callable[[str, str], str | None] = lambda name, url: None,
) -> McpRequest:
    """The agent's request as its server gets it.

    `callers` are the caller's secrets; `token_of` has the token of an operator's login at the
    server of that name and address. Raises `McpRefused`.
    """
    name = request.host.removesuffix(SUFFIX)
    server = servers.get(name)
    if server is None or server.url is None:
        raise McpRefused(404, "this agent has no such MCP server")
    if request.is_tunnel or request.port != 80:
        raise McpRefused(400, "MCP servers are asked by plain http here")
    if request.path != "/":
        raise McpRefused(404, "there is nothing but the MCP server itself here")
    if request.method not in _METHODS:
        raise McpRefused(405, "this server sends no messages of its own")
    parts = urlsplit(server.url)
    is_tls = parts.scheme == "https"
    port = parts.port or (443 if is_tls else 80)
    host = parts.hostname or ""
    target = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
    headers = _headers(request, server, secrets, callers)
    if server.login:
        headers.append(_authorization(token_of(name, server.url)))
    authority = authority_of(host, port, usual=443 if is_tls else 80)
    return McpRequest(
        host=host,
        port=port,
        is_tls=is_tls,
        head=opening(request.method, target, authority, headers),
        body_bytes=_body_bytes(request),
        timeout_s=server.timeout_s + TIMEOUT_SLACK_S,
    )


async def connected_to(request: McpRequest) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to the server. Raises `McpRefused`."""
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            return await asyncio.open_connection(
                request.host,
                request.port,
                ssl=ssl.create_default_context() if request.is_tls else None,
            )
    except (OSError, TimeoutError) as error:  # An `ssl.SSLError` is an `OSError`.
        raise McpRefused(
            502, "the MCP server does not answer", detail=type(error).__name__
        ) from error


def _headers(
    request: ProxyRequest,
    server: McpServer,
    secrets: McpSecrets,
    callers: Mapping[str, str],
) -> list[bytes]:
    ours = {name.lower() for name in server.headers} | _NEVER_PASSED
    kept = [line for line in request.headers if _name(line) not in ours]
    try:
        added = [
            f"{name}: {secrets.put_into(value, callers)}" for name, value in server.headers.items()
        ]
        return [*kept, *(line.encode("ascii") for line in added)]
    except KeyError as error:
        raise McpRefused(
            502, "the MCP server is not set up", detail=f"there is no secret {error}"
        ) from error


def _authorization(token: str | None) -> bytes:
    if token is None:
        raise McpRefused(401, "the MCP server needs a login by its operator")
    return f"Authorization: Bearer {token}".encode("ascii")


def is_plain(value: object) -> bool:
    """Whether it can stand in a header."""
    return isinstance(value, str) and value.isascii() and value.isprintable()


def _name(line: bytes) -> str:
    return line.partition(b":")[0].decode("ascii").lower()


def _body_bytes(request: ProxyRequest) -> int:
    lengths = [
        line.partition(b":")[2].strip().decode("latin-1")
        for line in request.headers
        if _name(line) == "content-length"
    ]
    is_chunked = any(_name(line) == "transfer-encoding" for line in request.headers)
    if request.method == "DELETE" and not lengths and not is_chunked:
        return 0
    if len(lengths) != 1 or is_chunked or not _LENGTH.fullmatch(lengths[0]):
        raise McpRefused(411, "a request to an MCP server needs a Content-Length")
    if int(lengths[0]) > BODY_MAX_BYTES:
        raise McpRefused(413, f"a request to an MCP server has at most {BODY_MAX_BYTES} bytes")
    return int(lengths[0])
