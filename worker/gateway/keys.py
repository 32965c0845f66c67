"""A caller's key and other secrets while a turn runs: in memory, can be wiped, never printed."""

from __future__ import annotations

import json
from collections.abc import Mapping

from infra.runtime.sealing import SealContext, Sealer
from infra.wire.errors import AgClusterError, ErrorCode
from infra.wire.gateway import OpenTurn, SideCall
from infra.wire.mcp.logins import McpLogin


class KeyWiped(AgClusterError):
    """The turn is over, and its key was wiped."""

    code = ErrorCode.INVALID_KEY


class TurnKey:
    """The key of one turn, until it is wiped.

    Wiping overwrites the bytes. Copies in the header of a running request disappear with that
    request, because Python's strings cannot be overwritten.
    """

    def __init__(self, key: str) -> None:
        self._bytes = bytearray(key.encode())

    def reveal(self) -> str:
        """The key itself. Raises `KeyWiped`."""
        if not self._bytes:
            raise KeyWiped("the key of this turn has been wiped")
        return self._bytes.decode()

    def wipe(self) -> None:
        """Overwrite it. May be called repeatedly."""
        self._bytes[:] = bytes(len(self._bytes))
        self._bytes.clear()

    @property
    def is_wiped(self) -> bool:
        return not self._bytes

    def __repr__(self) -> str:
        return "TurnKey([key])"


class CallersSecrets:
    """What a caller sends for the MCP servers of one turn, until it is wiped."""

    def __init__(self, told: str = "") -> None:
        """`told`: a JSON object of names and values."""
        self._bytes = bytearray(told.encode())

    def reveal(self) -> Mapping[str, str]:
        """The values by name; none once they are wiped."""
        values: dict[str, str] = json.loads(self._bytes.decode()) if self._bytes else {}
        return values

    def wipe(self) -> None:
        """Overwrite them. May be called repeatedly."""
        self._bytes[:] = bytes(len(self._bytes))
        self._bytes.clear()

    def __repr__(self) -> str:
        return "CallersSecrets([secrets])"


def open_key(sealer: Sealer, command: OpenTurn | SideCall, *, now_ms: int) -> TurnKey:
    """The key that was sealed for exactly this turn. Raises `KeyNotOpened`."""
    return TurnKey(sealer.open(command.sealed_key, _context(command), now_ms=now_ms))


def open_callers_secrets(sealer: Sealer, command: OpenTurn, *, now_ms: int) -> CallersSecrets:
    """What was sealed for exactly this turn. Raises `KeyNotOpened`."""
    given = command.turn_options.mcp_secrets
    if given is None:
        return CallersSecrets()
    return CallersSecrets(sealer.open(given.sealed, _context(command), now_ms=now_ms))


class LoginTokens:
    """The tokens of a turn's logins at MCP servers, until they are wiped."""

    def __init__(self, logins: Mapping[str, McpLogin] | None = None) -> None:
        """By the names of their servers."""
        told = {name: (one.url, one.access_token) for name, one in (logins or {}).items()}
        self._bytes = bytearray(json.dumps(told).encode())

    def of(self, server: str, url: str) -> str | None:
        """The token for the server of that name, if it is the one that the login was made at."""
        made_at, token = self._told().get(server, (None, None))
        return token if made_at == url else None

    def take(self, newer: LoginTokens) -> None:
        """Have those in the place of one's own, and keep others. `newer` is wiped."""
        told = {**self._told(), **newer._told()}
        newer.wipe()
        self.wipe()
        self._bytes += json.dumps(told).encode()

    def _told(self) -> dict[str, list[str]]:
        told: dict[str, list[str]] = json.loads(self._bytes.decode()) if self._bytes else {}
        return told

    def wipe(self) -> None:
        """Overwrite them. May be called repeatedly."""
        self._bytes[:] = bytes(len(self._bytes))
        self._bytes.clear()

    def __repr__(self) -> str:
        return "LoginTokens([tokens])"


def _context(command: OpenTurn | SideCall) -> SealContext:
    return SealContext(
        tenant=command.tenant,
        conversation=command.conversation,
        turn=command.turn,
        expires_ms=command.expires_ms,
    )
