"""Names that a chat program uses again for another chat.

Open WebUI names a temporary chat after its browser's connection (`local:<socket>`), so the next
chat in the same window has the same name and would find the files of the previous one. Under such a
name, each first message of a history starts a conversation; the name stands for the newest one.
"""

from __future__ import annotations

import re

from infra.runtime.identity import conversation_key, new_conversation_name
from infra.runtime.settings import ConversationSettings
from infra.store.conversations.chains import ChainStore
from infra.wire.ids import ConversationKey, TenantId


class TemporaryNames:
    """Maps temporary names to conversations."""

    def __init__(
        self,
        settings: ConversationSettings,
        *,
        secret: bytes,
        chains: ChainStore,
        retention_s: float,
    ) -> None:
        self._patterns = [re.compile(pattern) for pattern in settings.temporary_name_patterns]
        self._retention_s = retention_s
        self._secret = secret
        self._chains = chains

    def covers(self, name: str | None) -> bool:
        """Whether it is a temporary name."""
        return name is not None and any(pattern.match(name) for pattern in self._patterns)

    async def stands_for(self, tenant: TenantId, name: str) -> ConversationKey:
        """The conversation of a name. Raises `StoreUnavailable`."""
        key = conversation_key(self._secret, tenant, name)
        if not self.covers(name):
            return key
        return await self._chains.newest(key) or key

    def another(self, tenant: TenantId) -> ConversationKey:
        """A conversation that nobody has used."""
        return conversation_key(self._secret, tenant, new_conversation_name())

    async def let_stand(self, tenant: TenantId, name: str, conversation: ConversationKey) -> None:
        """From now on the name stands for that conversation. Raises `StoreUnavailable`."""
        key = conversation_key(self._secret, tenant, name)
        await self._chains.put_newest(key, conversation, retention_s=self._retention_s)
