"""Encryption of prompts and answers in Redis: none, or with a secret of its own.

With a content secret, every prompt, event and transcript entry is encrypted with AES-256-GCM and
bound to the place where it is stored, so that it cannot be opened anywhere else. API and workers
hold the content secret. It is not the cluster secret, which opens callers' keys and which workers
do not have. An event's `type` stays readable, for scripts and operators.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from infra.wire.errors import ContentNotOpened

_VERSION = b"s1"
_NONCE_BYTES = 12
_SEALED = re.compile(rb"s1\.([0-9a-f]{8})\.([A-Za-z0-9_-]+=*)")
_EVENT = re.compile(rb'\{"type":"([a-z_]+)"[,}]')
_SEALED_EVENT = re.compile(rb'\{"type":"[a-z_]+","sealed":"([^"]+)"\}')
_LEFT_OPEN = b"started"
"""The append script reads the SDK session in it. It contains no prompts or answers."""


class Contents(Protocol):
    """Seals and opens stored contents. `place` names where the bytes are stored; no two places
    share a name."""

    def seal(self, raw: bytes, place: str) -> bytes:
        """The bytes to store in Redis for `raw`."""

    def open(self, kept: bytes, place: str) -> bytes:
        """The original bytes. Bytes that were stored unsealed are returned as they are.

        Raises `ContentNotOpened` if they were sealed with another secret or for another place.
        """

    def seal_event(self, payload: bytes, place: str) -> bytes:
        """Like `seal`, for an event's JSON; its type stays readable."""

    def open_event(self, kept: bytes, place: str) -> bytes:
        """The inverse of `seal_event`. Raises `ContentNotOpened`."""

    def blind(self, digest: str) -> str:
        """A keyed digest of a text: nobody can test guesses against it without the secret."""


class PlainContents:
    """Stores everything unsealed."""

    def seal(self, raw: bytes, place: str) -> bytes:
        return raw

    def open(self, kept: bytes, place: str) -> bytes:
        return kept

    def seal_event(self, payload: bytes, place: str) -> bytes:
        return payload

    def open_event(self, kept: bytes, place: str) -> bytes:
        return kept

    def blind(self, digest: str) -> str:
        return digest


class SealedContents:
    """Seals with the first secret and opens with any of them, so that secrets can be rotated."""

    def __init__(self, first: bytes, *others: bytes) -> None:
        self._ciphers = {_key_id(secret): AESGCM(_derive(secret, b"content")) for secret in others}
        self._newest = _key_id(first)
        self._ciphers[self._newest] = AESGCM(_derive(first, b"content"))
        self._blinding = _derive(first, b"digest")

    def seal(self, raw: bytes, place: str) -> bytes:
        nonce = secrets.token_bytes(_NONCE_BYTES)
        body = nonce + self._ciphers[self._newest].encrypt(nonce, raw, place.encode())
        return b"%b.%b.%b" % (_VERSION, self._newest, base64.urlsafe_b64encode(body))

    def open(self, kept: bytes, place: str) -> bytes:
        found = _SEALED.fullmatch(kept)
        return self._opened(found, place) if found else kept

    def seal_event(self, payload: bytes, place: str) -> bytes:
        found = _EVENT.match(payload)
        if found is None or found[1] == _LEFT_OPEN:
            return payload
        return b'{"type":"%b","sealed":"%b"}' % (found[1], self.seal(payload, place))

    def open_event(self, kept: bytes, place: str) -> bytes:
        found = _SEALED_EVENT.fullmatch(kept)
        return self.open(found[1], place) if found else kept

    def blind(self, digest: str) -> str:
        blinded = hmac.digest(self._blinding, digest.encode(), "sha256").hex()
        return blinded[: len(digest)]

    def _opened(self, found: re.Match[bytes], place: str) -> bytes:
        cipher = self._ciphers.get(found[1])
        if cipher is None:
            raise ContentNotOpened(
                f"sealed with another content secret ({found[1].decode()}): add that one, behind "
                "a comma, to AGCLUSTER_CONTENT_SECRET"
            )
        try:
            raw = base64.urlsafe_b64decode(found[2])
            return cipher.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], place.encode())
        except (InvalidTag, ValueError) as error:
            raise ContentNotOpened("sealed for another place, or broken") from error


def contents_of(secret: str) -> Contents:
    """Contents for the setting: secrets separated by commas, the newest first."""
    first, *others = (part.strip().encode() for part in secret.split(","))
    return SealedContents(first, *others)


def _derive(secret: bytes, purpose: bytes) -> bytes:
    info = b"agcluster sealed content: " + purpose
    return HKDF(SHA256(), length=32, salt=None, info=info).derive(secret)


def _key_id(secret: bytes) -> bytes:
    return hashlib.sha256(_derive(secret, b"id")).hexdigest()[:8].encode()
