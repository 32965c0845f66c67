"""Conversations as their tenant sees them: listed, shown, deleted for good."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

from api.http.auth import Caller
from api.turns.lookup import TurnLookup
from api.turns.temporary import TemporaryNames
from infra.runtime.settings import AgentDefaults
from infra.store.conversations.conversations import (
    ConversationPage,
    ConversationRecord,
    ConversationStore,
)
from infra.store.turns.turns import TurnStore
from infra.wire.errors import ConversationNotFound, TurnFailed
from infra.wire.ids import ConversationKey, TurnId

DELETE_SLACK_S = 2.0
"""Seconds that a delete waits for the turn's own end, beyond an interrupted agent's grace time."""

_KEY = re.compile(r"[0-9a-f]{24}")


class Sessions:
    """The recorded conversations, as callers may see them."""

    def __init__(
        self,
        settings: AgentDefaults,
        *,
        names: TemporaryNames,
        conversations: ConversationStore,
        turns: TurnStore,
        lookup: TurnLookup,
    ) -> None:
        self._settings = settings
        self._names = names
        self._conversations = conversations
        self._turns = turns
        self._lookup = lookup

    async def page(self, caller: Caller, *, after: str | None, limit: int) -> ConversationPage:
        """The caller's conversations, the most recently used first. Raises `ValueError` for an
        invalid cursor."""
        return await self._conversations.list(caller.tenant, cursor=after, limit=limit)

    async def find(self, name: str, caller: Caller) -> ConversationRecord:
        """By the client's own name, otherwise by its key. Raises `ConversationNotFound`."""
        keys = [await self._names.stands_for(caller.tenant, name)]
        if _KEY.fullmatch(name):
            keys.append(ConversationKey(name))
        for key in keys:
            record = await self._conversations.get(key)
            if record is not None and caller.owns(record.tenant):
                return record
        raise ConversationNotFound(name)

    async def turns(self, record: ConversationRecord) -> Sequence[TurnId]:
        """The ids of its newest turns, the newest last."""
        return await self._conversations.turns(record.conversation)

    async def delete(self, name: str, caller: Caller) -> ConversationKey:
        """Delete it everywhere. Running turns are cancelled first and get to their own end.

        Raises `ConversationNotFound` and `StoreUnavailable`.
        """
        c = (await self.find(name, caller)).conversation
        reason = "the conversation was deleted"
        stopping = await self._conversations.stop(c, tenant=caller.tenant, reason=reason)
        if stopping.turn is not None:
            await self._until_ended(stopping.turn)
        await self._conversations.delete(c, tenant=caller.tenant, reason=reason, is_forced=True)
        return c

    async def _until_ended(self, turn: TurnId) -> None:
        """Wait until the turn has ended, or its time is over."""
        record = await self._turns.get(turn)
        if record is None:
            return
        open_turn = self._lookup.open(record, after=record.seq)
        try:
            async with asyncio.timeout(self._settings.disconnect_grace_s + DELETE_SLACK_S):
                async for _ in open_turn.relay:
                    pass
        except (TimeoutError, TurnFailed):
            return  # It is then ended by force.
        finally:
            open_turn.leave(hung_up=False)
