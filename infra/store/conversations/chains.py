"""Finds conversations of clients that do not name them, by a digest of what was said."""

from __future__ import annotations

from typing import Literal

from redis.asyncio import Redis

from infra.runtime.contents import Contents, PlainContents
from infra.store.keys import Keys
from infra.store.server.calls import Call
from infra.store.server.connection import translate
from infra.store.server.replies import Answer, OkAnswer, optional
from infra.store.server.scripts import Scripts
from infra.wire.ids import ConversationKey, TenantId


class TakeChainAnswer(Answer, frozen=True):
    outcome: Literal["found", "none"]
    conversation: ConversationKey | None = None


class TakeChainCall(Call[TakeChainAnswer], frozen=True):
    retention_ms: int


class PutChainCall(Call[OkAnswer], frozen=True):
    conversation: ConversationKey
    retention_ms: int
    tenant: TenantId


class ChainStore:
    """Maps chains, digests of a conversation so far, to conversations; tenants are kept apart.

    A chain leads to a conversation only if exactly one has ever had it, so two clients never share
    a container by mistake. Entries expire with the conversation's retention.
    """

    def __init__(self, redis: Redis, keys: Keys, *, contents: Contents | None = None) -> None:
        self._redis = redis
        self._contents = contents or PlainContents()
        self._keys = keys
        self._scripts = Scripts(redis, keys)

    async def take(
        self, tenant: TenantId, chain: str, *, earlier: str | None, retention_s: float
    ) -> ConversationKey | None:
        """The conversation under `chain`, if there was only ever one; `earlier` no longer leads
        anywhere.

        None otherwise, because two conversations that cannot be told apart must not share a
        container. Raises `StoreUnavailable`.
        """
        call = TakeChainCall(retention_ms=round(retention_s * 1000))
        keys = {"chain": self._key(tenant, chain)}
        if earlier is not None:
            keys["earlier"] = self._key(tenant, earlier)
        return (await self._scripts.run(call, **keys)).conversation

    async def put(
        self, tenant: TenantId, chain: str, conversation: ConversationKey, *, retention_s: float
    ) -> None:
        """Make the conversation findable under `chain`. Raises `StoreUnavailable`."""
        await self._scripts.run(
            PutChainCall(
                conversation=conversation, retention_ms=round(retention_s * 1000), tenant=tenant
            ),
            chain=self._key(tenant, chain),
        )

    async def newest(self, name: ConversationKey) -> ConversationKey | None:
        """The conversation of a temporary name; `name` is the key of the name itself.

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
