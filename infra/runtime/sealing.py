"""Encryption of a caller's key and other secrets on their way from the API to the gateway:
AES-256-GCM, bound to their turn.

The associated data contains tenant, conversation, turn and expiry, so a sealed key that is copied
elsewhere cannot be opened. The API seals, the gateway opens; nothing between them can read the key.
Each kind of secret has a sealing key of its own, so that none can take the place of another.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from infra.wire.errors import KeyNotOpened, MalformedMessage
from infra.wire.ids import ConversationKey, TenantId, TurnId
from infra.wire.mcp.logins import McpLogin, decode_login

SECRET_MIN_BYTES = 32
_VERSION = "v1"
_NONCE_BYTES = 12


class Sealed(StrEnum):
    """What is sealed."""

    KEY = "agcluster sealed key"
    MCP_SECRETS = "agcluster sealed mcp secrets"
    MCP_LOGIN = "agcluster sealed mcp login"


@dataclass(frozen=True)
class SealContext:
    """What a sealed key may be used for. `expires_ms` is Unix time."""

    tenant: TenantId
    conversation: ConversationKey
    turn: TurnId
    expires_ms: int

    def associated_data(self) -> bytes:
        parts = (_VERSION, self.tenant, self.conversation, self.turn, str(self.expires_ms))
        return "\0".join(parts).encode()


class Sealer:
    """Seals and opens keys with a key derived from the cluster secret.

    Of several secrets, separated by commas, the first seals and each opens: programs that know
    them in another order work together, so a secret can be changed while turns run.
    """

    def __init__(self, secret: bytes, what: Sealed = Sealed.KEY) -> None:
        self._aeads = _aeads(secret, what)

    def seal(self, api_key: str, context: SealContext) -> str:
        """URL-safe text, different on each call."""
        return _seal(self._aeads[0], api_key.encode(), context.associated_data())

    def open(self, sealed: str, context: SealContext, *, now_ms: int) -> str:
        """The key. Raises `KeyNotOpened` if it is damaged, expired or sealed for something else."""
        if now_ms >= context.expires_ms:
            raise KeyNotOpened("the sealed key has expired")
        return _open(self._aeads, sealed, context.associated_data()).decode()


class LoginSealer:
    """Seals and opens logins at MCP servers, each for the agent and server that it belongs to."""

    def __init__(self, secret: bytes) -> None:
        self._aeads = _aeads(secret, Sealed.MCP_LOGIN)

    def seal(self, login: McpLogin, name: str) -> str:
        return _seal(self._aeads[0], login.encode(), name.encode())

    def open(self, sealed: str, name: str) -> McpLogin:
        """Raises `KeyNotOpened`."""
        try:
            return decode_login(_open(self._aeads, sealed, name.encode()))
        except MalformedMessage as error:
            raise KeyNotOpened("the sealed login cannot be read") from error


def secrets_in(told: str | bytes) -> list[bytes]:
    """The secrets of a setting, which separates them by commas.

    A secret of before may have a comma in it: what is too short for secrets is one.
    """
    raw = told.encode() if isinstance(told, str) else told
    parts = [one.strip() for one in raw.split(b",")]
    return parts if all(len(one) >= SECRET_MIN_BYTES for one in parts) else [raw]


def _aeads(secret: bytes, what: Sealed) -> list[AESGCM]:
    return [_aead(one, what) for one in secrets_in(secret)]


def _aead(secret: bytes, what: Sealed) -> AESGCM:
    return AESGCM(HKDF(SHA256(), length=32, salt=None, info=what.value.encode()).derive(secret))


def _seal(aead: AESGCM, told: bytes, associated_data: bytes) -> str:
    nonce = secrets.token_bytes(_NONCE_BYTES)
    sealed = aead.encrypt(nonce, told, associated_data)
    return f"{_VERSION}.{base64.urlsafe_b64encode(nonce + sealed).decode()}"


def _open(aeads: Sequence[AESGCM], sealed: str, associated_data: bytes) -> bytes:
    """Raises `KeyNotOpened`."""
    version, _, body = sealed.partition(".")
    try:
        raw = base64.urlsafe_b64decode(body.encode())
        if version != _VERSION:
            raise KeyNotOpened(f"sealed with an unknown version {version[:8]!r}")
    except (ValueError, binascii.Error) as error:
        raise KeyNotOpened("what is sealed does not open here") from error
    for aead in aeads:
        try:
            return aead.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], associated_data)
        except (InvalidTag, ValueError):
            continue  # Sealed with another one.
    raise KeyNotOpened("what is sealed does not open here")
