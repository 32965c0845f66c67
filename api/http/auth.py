"""Who calls: the key of the request and the tenant it stands for.

The key is the caller's own (of the upstream), so it is only checked for its shape here; `key_check`
asks the upstream. It is never logged and never shown.
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
from infra.wire.words import Case, refused

_SHAPE = re.compile(r"[\x21-\x7e]{8,512}")


@dataclass(frozen=True)
class Caller:
    """Who calls. The key is left out of every representation."""

    tenant: TenantId
    api_key: str = field(repr=False)

    def owns(self, tenant: TenantId) -> bool:
        """Whether what that tenant has is the caller's; takes as long for a near miss as any."""
        return hmac.compare_digest(self.tenant.encode(), tenant.encode())


def authenticate(headers: Mapping[str, str], *, secret: bytes) -> Caller:
    """The caller by `Authorization: Bearer` or, without one, `x-api-key`.

    Raises `RequestRefused` (401) for a missing key or one that cannot be any.
    """
    key = _bearer(headers.get("authorization", "")) or headers.get("x-api-key", "").strip()
    if not key:
        raise RequestRefused("", code=ErrorCode.MISSING_KEY)
    if not _SHAPE.fullmatch(key):
        raise refused(Case.KEY_MALFORMED)
    return Caller(tenant_id(secret, key), key)


def without_key(text: str, headers: Mapping[str, str]) -> str:
    """What a caller wrote, to be shown or logged: their key is masked wherever they put it."""
    for key in (_bearer(headers.get("authorization", "")), headers.get("x-api-key", "").strip()):
        if _SHAPE.fullmatch(key):
            text = text.replace(key, "[key]")
    return redact(text)


def _bearer(value: str) -> str:
    scheme, _, rest = value.strip().partition(" ")
    return rest.strip() if scheme.lower() == "bearer" else ""
