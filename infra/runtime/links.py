"""Signs links to files that the cluster gives out, so that they work without a key, for some time.

A link names a file and when it ends. Anyone who has it may read that file until then, at any
replica. Nobody can make one without the cluster secret, from which its key is derived.
"""

from __future__ import annotations

from collections.abc import Sequence

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from itsdangerous import BadData, URLSafeSerializer

from infra.wire.ids import FileId, file_meant

TOKEN_MAX_CHARS = 300


class LinkSigner:
    """Signs with the first secret and accepts any of them, so that the secret can be changed."""

    def __init__(self, secrets: Sequence[bytes]) -> None:
        # The library signs with the last one.
        keys = [_derived(secret) for secret in reversed(secrets)]
        self._tokens = URLSafeSerializer(keys, salt="agcluster file link")

    def token(self, file: FileId, *, expires_ms: int) -> str:
        """The same each time, so that an answer that is shown again has the same links."""
        signed = self._tokens.dumps([file, expires_ms])
        return signed if isinstance(signed, str) else signed.decode()

    def read(self, token: str) -> tuple[FileId, int] | None:
        """The file, and when the link ends (Unix ms), which may be past; None if it is not ours."""
        if len(token) > TOKEN_MAX_CHARS:
            return None
        try:
            said, expires_ms = self._tokens.loads(token)
        except (BadData, ValueError, TypeError):
            return None
        file = file_meant(said) if isinstance(said, str) else None
        return (file, expires_ms) if file is not None and isinstance(expires_ms, int) else None


def _derived(secret: bytes) -> bytes:
    return HKDF(SHA256(), length=32, salt=None, info=b"agcluster file link").derive(secret)
