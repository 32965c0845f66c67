"""Logins at MCP servers: an operator's, made once, renewed for as long as its service allows."""

from __future__ import annotations

from typing import Literal

from pydantic import TypeAdapter

from infra.wire.base import Message, decode

LOGIN_MAX_BYTES = 64 * 1024


def login_name(agent: str, server: str) -> str:
    """What a login belongs to."""
    return f"{agent}/{server}"


class McpLogin(Message):
    """What a login consists of. Only ever sealed outside of a gateway and `agcluster mcp login`."""

    url: str
    """The server that it is for; no other gets the token."""
    access_token: str
    refresh_token: str | None = None
    expires_s: int | None = None
    """Unix time in seconds; None if the service does not say."""
    token_endpoint: str
    client_id: str
    client_secret: str | None = None
    client_auth: Literal["none", "client_secret_post", "client_secret_basic"] = "none"
    scope: str | None = None
    is_resource_named: bool = True
    """The service is told which server the token is for (RFC 8707)."""


class SealedLogin(Message):
    """A login as it is kept."""

    sealed: str
    expires_ms: int | None = None
    """When its token ends (Unix ms)."""
    can_renew: bool = False
    made_ms: int = 0
    """When it was made or renewed last."""
    fault: str | None = None
    """Why it could not be renewed, in our words."""


class OpenLogin(Message):
    """A login for one turn's server."""

    name: str
    """`login_name`, for which it is sealed."""
    sealed: str


class RenewLogin(Message):
    """Have the service renew this login."""

    type: Literal["renew_login"] = "renew_login"
    name: str
    sealed: str


class RenewedLogin(Message):
    """The login from now on: the one before may be worthless. With a `fault` it is that one."""

    type: Literal["renewed_login"] = "renewed_login"
    login: SealedLogin


_LOGIN: TypeAdapter[McpLogin] = TypeAdapter(McpLogin)
_KEPT: TypeAdapter[SealedLogin] = TypeAdapter(SealedLogin)
_RENEW: TypeAdapter[RenewLogin] = TypeAdapter(RenewLogin)
_RENEWED: TypeAdapter[RenewedLogin] = TypeAdapter(RenewedLogin)


def decode_login(raw: bytes) -> McpLogin:
    """Raises `MalformedMessage`."""
    login: McpLogin = decode(_LOGIN, raw)
    return login


def decode_sealed_login(raw: bytes | str) -> SealedLogin:
    """Raises `MalformedMessage`."""
    login: SealedLogin = decode(_KEPT, raw)
    return login


def decode_renew_login(raw: bytes) -> RenewLogin:
    """Raises `MalformedMessage`."""
    command: RenewLogin = decode(_RENEW, raw)
    return command


def decode_renewed_login(raw: bytes) -> RenewedLogin:
    """Raises `MalformedMessage`."""
    answer: RenewedLogin = decode(_RENEWED, raw)
    return answer
