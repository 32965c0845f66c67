"""The caller: the key of the request, and the tenant that it stands for.

The key is the caller's own key for the upstream, so only its form is checked here; `key_check` asks
the upstream. It is never logged or shown.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from infra.runtime.identity import tenant_id
from infra.runtime.logs import redact
from infra.wire.errors import ErrorCode, RequestRefused
from infra.wire.ids import TenantId
from infra.wire.text.words import Case, refused

KEY_MIN_CHARS = 8
"""No service has shorter keys. Masking one in texts would spoil them."""
KEY_MAX_CHARS = 512

_SHAPE = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True)
class Caller:
    """Who sent the request. Representations never include the key."""

    tenant: TenantId
    api_key: str = field(repr=False)

    def owns(self, tenant: TenantId) -> bool:
        """Whether that tenant's data is the caller's. Takes the same time for any other tenant."""
        return hmac.compare_digest(self.tenant.encode(), tenant.encode())


def authenticate(
    headers: Mapping[str, str], *, secret: bytes, key_min_chars: int = KEY_MIN_CHARS
) -> Caller:
    """The caller by `Authorization: Bearer` or, without it, `x-api-key`.

    Raises `RequestRefused` (401) for a missing or malformed key.
    """
    key = _bearer(headers.get("authorization", "")) or headers.get("x-api-key", "").strip()
    if not key:
        raise RequestRefused("", code=ErrorCode.MISSING_KEY)
    if not _has_shape(key, key_min_chars):
        raise refused(Case.KEY_MALFORMED, least=key_min_chars, most=KEY_MAX_CHARS)
    return Caller(tenant_id(secret, key), key)


def without_key(text: str, headers: Mapping[str, str]) -> str:
    """A caller's text, for showing or logging it: the caller's key in it is masked."""
    for key in (_bearer(headers.get("authorization", "")), headers.get("x-api-key", "").strip()):
        if _has_shape(key, KEY_MIN_CHARS):
            text = text.replace(key, "[key]")
    return redact(text)


def _has_shape(key: str, min_chars: int) -> bool:
    return min_chars <= len(key) <= KEY_MAX_CHARS and _SHAPE.fullmatch(key) is not None


def _bearer(value: str) -> str:
    scheme, _, rest = value.strip().partition(" ")
    return rest.strip() if scheme.lower() == "bearer" else ""
