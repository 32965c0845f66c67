"""The versions of agents' profiles, by digest, so that all replicas and workers mean the same."""

from __future__ import annotations

from collections import OrderedDict

from redis.asyncio import Redis

from infra.store.keys import Keys
from infra.store.server.connection import translate
from infra.wire.agents.profile import AgentProfile, decode_profile

REMEMBERED_MAX = 200


class ProfileStore:
    """Profiles in Redis. What was read once is remembered, because a digest never changes."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys
        self._remembered: OrderedDict[str, AgentProfile] = OrderedDict()

    async def keep(
        self, profile: AgentProfile, *, ttl_s: float, bundle: bytes | None = None
    ) -> str:
        """Keep it for so long from now, and return its digest. `bundle` is the archive that it
        names; None if it names none. Raises `StoreUnavailable`."""
        digest = profile.digest
        if profile.bundle is not None:
            # First: where the profile is, its files are too.
            await self._keep_bundle(profile.bundle, bundle, ttl_s=ttl_s)
        raw = profile.model_dump_json(exclude_defaults=True)
        with translate():
            await self._redis.set(self._keys.agent_profile(digest), raw, px=round(ttl_s * 1000))
        self._remember(digest, profile)
        return digest

    async def get(self, digest: str) -> AgentProfile | None:
        """The profile; None if it is not kept, or no longer.

        Raises `StoreUnavailable` and `MalformedMessage`.
        """
        if (known := self._remembered.get(digest)) is not None:
            self._remembered.move_to_end(digest)
            return known
        with translate():
            raw = await self._redis.get(self._keys.agent_profile(digest))
        if raw is None:
            return None
        profile = decode_profile(raw)
        self._remember(digest, profile)
        return profile

    async def _keep_bundle(self, digest: str, raw: bytes | None, *, ttl_s: float) -> None:
        key, ttl_ms = self._keys.agent_bundle(digest), round(ttl_s * 1000)
        with translate():
            if not await self._redis.pexpire(key, ttl_ms) and raw is not None:
                await self._redis.set(key, raw, px=ttl_ms)

    async def bundle(self, digest: str) -> bytes | None:
        """The archive; None if it is not kept, or no longer. Raises `StoreUnavailable`."""
        with translate():
            raw: bytes | None = await self._redis.get(self._keys.agent_bundle(digest))
        return raw

    def _remember(self, digest: str, profile: AgentProfile) -> None:
        self._remembered[digest] = profile
        self._remembered.move_to_end(digest)
        while len(self._remembered) > REMEMBERED_MAX:
            self._remembered.popitem(last=False)
