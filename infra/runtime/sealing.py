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
from dataclasses import dataclass
from enum import StrEnum

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from infra.wire.errors import KeyNotOpened
from infra.wire.ids import ConversationKey, TenantId, TurnId

_VERSION = "v1"
_NONCE_BYTES = 12


class Sealed(StrEnum):
    """What is sealed."""

    KEY = "agcluster sealed key"
    MCP_SECRETS = "agcluster sealed mcp secrets"


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
    """Seals and opens keys with a key derived from the cluster secret."""

    def __init__(self, secret: bytes, what: Sealed = Sealed.KEY) -> None:
        derived = HKDF(SHA256(), length=32, salt=None, info=what.value.encode()).derive(secret)
        self._aead = AESGCM(derived)

    def seal(self, api_key: str, context: SealContext) -> str:
        """URL-safe text, different on each call."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = self._aead.encrypt(nonce, api_key.encode(), context.associated_data())
        return f"{_VERSION}.{base64.urlsafe_b64encode(nonce + sealed).decode()}"

    def open(self, sealed: str, context: SealContext, *, now_ms: int) -> str:
        """The key. Raises `KeyNotOpened` if it is damaged, expired or sealed for something else."""
        if now_ms >= context.expires_ms:
            raise KeyNotOpened("the sealed key has expired")
        version, _, body = sealed.partition(".")
        try:
            raw = base64.urlsafe_b64decode(body.encode())
            if version != _VERSION:
                raise KeyNotOpened(f"sealed with an unknown version {version[:8]!r}")
            opened = self._aead.decrypt(
                raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], context.associated_data()
            )
        except (InvalidTag, ValueError, binascii.Error) as error:
            raise KeyNotOpened("the sealed key does not open for this turn") from error
        return opened.decode()
