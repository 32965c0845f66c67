"""What the upstream said of a tenant's key, remembered for minutes (never the key itself)."""

from __future__ import annotations

from redis.asyncio import Redis

from infra.store.keys import Keys
from infra.wire.ids import TenantId


class KeyVerdicts:
    def __init__(self, redis: Redis, keys: Keys) -> None: ...

    async def get(self, tenant: TenantId) -> bool | None:
        """True: accepted, False: refused, None: not known."""
        raise NotImplementedError

    async def put(self, tenant: TenantId, accepted: bool, *, ttl_s: float) -> None:
        raise NotImplementedError
