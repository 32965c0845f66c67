"""Publishers' keys: Ed25519, one file each, and the list of publishers that a deployment trusts."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from infra.releases.refused import ReleaseRefused
from infra.wire.text.foreign import foreign

KEY_FILE_MAX_BYTES = 10_000


class PublisherKey:
    """A private key. Anyone who has it can publish in its publisher's name."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private

    @classmethod
    def new(cls) -> PublisherKey:
        """A fresh one."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def read(cls, file: Path) -> PublisherKey:
        """Raises `ReleaseRefused` for anything but an Ed25519 key, and `OSError`."""
        with file.open("rb") as opened:
            raw = opened.read(KEY_FILE_MAX_BYTES)
        try:
            private = load_pem_private_key(raw, password=None)
        except (ValueError, TypeError):
            private = None
        if not isinstance(private, Ed25519PrivateKey):
            raise ReleaseRefused(f"{file} is no key of `agcluster agents key`")
        return cls(private)

    def write(self, file: Path) -> None:
        """Write it to a new file that only its owner may read. Raises `OSError`."""
        raw = self._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as opened:
            opened.write(raw)

    @property
    def public(self) -> str:
        """The public key, 64 hex digits: what others put into their list of publishers."""
        return self._private.public_key().public_bytes_raw().hex()

    def sign(self, told: bytes) -> str:
        """The signature, 128 hex digits."""
        return self._private.sign(told).hex()


class TrustedPublishers:
    """The publishers that a deployment trusts."""

    def __init__(self, keys: Mapping[str, str]) -> None:
        """`keys`: public keys by publisher; several are separated by spaces."""
        self._keys = {name: tuple(given.split()) for name, given in keys.items()}

    def require_signed(self, publisher: str, signature: str, told: bytes) -> None:
        """Raises `ReleaseRefused` unless one of that publisher's keys has signed it."""
        keys = self._keys.get(publisher)
        if not keys:
            raise ReleaseRefused(
                f"{foreign(publisher)} is not a publisher that this deployment trusts "
                "(AGCLUSTER_AGENT_PUBLISHERS)"
            )
        if not any(_is_signed(key, signature, told) for key in keys):
            raise ReleaseRefused(
                f"the signature is not that of {publisher}: the release was changed, or "
                "signed with another key"
            )

    def require_own(self, publisher: str, key: PublisherKey) -> None:
        """Raises `ReleaseRefused` unless the key is one of that publisher's."""
        if key.public not in self._keys.get(publisher, ()):
            raise ReleaseRefused(
                f"this key is not one of {publisher}'s here. AGCLUSTER_AGENT_PUBLISHERS needs "
                f"{publisher}={key.public}"
            )


def _is_signed(key: str, signature: str, told: bytes) -> bool:
    if not re.fullmatch(r"[0-9a-f]{128}", signature):
        return False
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(
            bytes.fromhex(signature), told
        )
    except InvalidSignature:
        return False
    return True
