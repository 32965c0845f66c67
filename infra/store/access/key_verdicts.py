"""What the upstream said about a tenant's key, cached for minutes (never the key itself)."""

from __future__ import annotations

from redis.asyncio import Redis

from infra.store.keys import Keys
from infra.store.server.connection import translate
from infra.store.server.replies import text
from infra.wire.ids import TenantId

_ACCEPTED, _REFUSED = "ok", "refused"


class KeyVerdicts:
    """A cache of whether the upstream accepts a tenant's key, shared by all replicas."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys

    async def get(self, tenant: TenantId) -> bool | None:
        """True: accepted, False: refused, None: unknown. Raises `StoreUnavailable`."""
        with translate():
            verdict = await self._redis.get(self._keys.key_verdict(tenant))
        return None if verdict is None else text(verdict) == _ACCEPTED

    async def put(self, tenant: TenantId, accepted: bool, *, ttl_s: float) -> None:
        """Cache it for `ttl_s`. Raises `StoreUnavailable`."""
        with translate():
            await self._redis.set(
                self._keys.key_verdict(tenant),
                _ACCEPTED if accepted else _REFUSED,
                px=max(round(ttl_s * 1000), 1),
            )
