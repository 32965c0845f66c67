"""Where conversations of clients that name none are found again: by a chain of what was said."""

from __future__ import annotations

from redis.asyncio import Redis

from infra.runtime.contents import Contents, PlainContents
from infra.store.keys import Keys
from infra.store.server.connection import translate
from infra.store.server.replies import optional
from infra.store.server.scripts import Scripts
from infra.wire.ids import ConversationKey, TenantId


class ChainStore:
    """Chains are digests that their caller makes; a tenant finds only its own."""

    def __init__(self, redis: Redis, keys: Keys, *, contents: Contents | None = None) -> None:
        self._redis = redis
        self._contents = contents or PlainContents()
        self._keys = keys
        self._scripts = Scripts(redis, keys)

    async def take(
        self, tenant: TenantId, chain: str, *, earlier: str | None, retention_s: float
    ) -> ConversationKey | None:
        """The conversation under `chain`, if only it ever was; `earlier` leads to none any more.

        None otherwise: two that cannot be told apart must not share a container. Raises
        `StoreUnavailable`.
        """
        keys = [self._key(tenant, chain)]
        if earlier is not None:
            keys.append(self._key(tenant, earlier))
        found = await self._scripts.run("take_chain", keys, [round(retention_s * 1000)])
        conversation = optional(found)
        return None if conversation is None else ConversationKey(conversation)

    async def put(
        self, tenant: TenantId, chain: str, conversation: ConversationKey, *, retention_s: float
    ) -> None:
        """Let the conversation be found under `chain`. Raises `StoreUnavailable`."""
        await self._scripts.run(
            "put_chain",
            [self._key(tenant, chain)],
            [conversation, round(retention_s * 1000), tenant],
        )

    async def newest(self, name: ConversationKey) -> ConversationKey | None:
        """What a temporary name stands for; `name` is the key of the name itself.

        Raises `StoreUnavailable`.
        """
        with translate():
            found = optional(await self._redis.get(self._keys.newest(name)))
        return None if found is None else ConversationKey(found)

    async def put_newest(
        self, name: ConversationKey, conversation: ConversationKey, *, retention_s: float
    ) -> None:
        """Let a temporary name stand for that conversation. Raises `StoreUnavailable`."""
        with translate():
            await self._redis.set(
                self._keys.newest(name), conversation, px=round(retention_s * 1000)
            )

    def _key(self, tenant: TenantId, chain: str) -> str:
        return self._keys.chain(tenant, self._contents.blind(chain))
