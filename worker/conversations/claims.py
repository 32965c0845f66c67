"""Claims a conversation's next turn, unless it has to wait for other tenants' turns."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from infra.runtime.logs import fields
from infra.store.turns.history import Memory
from infra.store.turns.turns import Claimed
from infra.wire.control import TurnWaits
from infra.wire.endings import declared_end
from infra.wire.errors import (
    ContentNotOpened,
    ErrorCode,
    MalformedMessage,
    StoreUnavailable,
    UnknownMessage,
)
from infra.wire.states import ConversationState
from worker.conversations.agent_versions import AgentVersions, ProfileGone
from worker.conversations.mcp_logins import TurnLogins
from worker.conversations.recorded_state import RecordedState
from worker.ownership import HeldLease
from worker.parts import ConversationParts
from worker.waiting import until_store_answers

log = logging.getLogger(__name__)

_UNREADABLE = (ContentNotOpened, MalformedMessage, UnknownMessage, ProfileGone)


class TurnNotRead(Exception):
    """The next turn was sealed with another secret, is of another version, or its agent's profile
    is gone, so it cannot run here.

    It has been ended, and another one may wait.
    """


class Claims:
    """The claims of one conversation."""

    def __init__(
        self,
        parts: ConversationParts,
        held: HeldLease,
        record: RecordedState,
        *,
        giving_way: Callable[[], int | None],
    ) -> None:
        """`giving_way` returns how many conversations give way already; None while there is
        room."""
        self._parts = parts
        self._held = held
        self._record = record
        self._giving_way = giving_way
        self._has_claimed = False
        self._newest_begun = 0
        self._versions = AgentVersions(parts.profiles, parts.clock)
        self._logins = TurnLogins(parts.mcp_logins, parts.gateway, parts.clock)

    async def gives_way(self) -> bool:
        """Whether the next turn has to wait until its tenant is served, like turns of other
        conversations.

        False for the turn that the conversation was placed for.
        """
        giving_way, c = self._giving_way(), self._held.conversation
        if not self._has_claimed or giving_way is None:
            return False
        try:
            gives_way = await self._parts.room.gives_way(
                c, waited_s=self._parts.timings.give_way_after_s, giving_way=giving_way
            )
        except StoreUnavailable as error:
            log.info("not asked who waits: %s", error, extra=fields(conversation=c))
            return False
        if gives_way:
            log.info("gives way", extra=fields(conversation=c))
        return gives_way

    async def next(self) -> Claimed | None:
        """The next turn, claimed; None if none waits.

        Keeps trying while Redis is unavailable. Raises `TurnNotRead` and `LeaseLost`.
        """
        turns, lease = self._parts.turns, self._held.lease
        try:
            claimed = await until_store_answers(lambda: turns.claim(lease), self._parts.clock)
            if claimed is not None:
                claimed = await self._with_profile(claimed)
        except _UNREADABLE as error:
            log.error("turn not read: %s", error, extra=fields(conversation=lease.conversation))
            if await self._end_unread():
                raise TurnNotRead from error
            return None
        # As the script leaves the record: a claim makes a warm conversation busy.
        if claimed is None:
            self._record.note_rest()
        else:
            self._note(claimed)
        return claimed

    async def begun(self, waits: TurnWaits) -> Claimed | None:
        """The turn that this message brings; None if the store has to be asked.

        It was begun for our lease, and we have not heard of it before: neither a message that comes
        late or twice nor one of an earlier owner may start a turn again.
        """
        begun, lease = waits.begun, self._held.lease
        if begun is None or begun.fence != lease.fence or begun.serial <= self._newest_begun:
            return None
        try:
            claimed = await self._with_profile(
                await self._parts.turns.begun(lease.conversation, waits.turn, begun)
            )
        except (*_UNREADABLE, StoreUnavailable) as error:
            log.warning("begun turn not read: %s", error, extra=fields(turn=waits.turn))
            return None
        self._note(claimed)
        return claimed

    async def _with_profile(self, claimed: Claimed) -> Claimed:
        """With the profile of its agent, and its logins. Raises what `AgentVersions.of` raises."""
        profile = await self._versions.of(claimed.request.agent)
        if profile is None:
            return claimed
        logins = await self._logins.of(claimed.request.agent, profile)
        return replace(claimed, profile=profile, mcp_logins=logins)

    def _note(self, claimed: Claimed) -> None:
        self._has_claimed = True
        self._newest_begun = max(self._newest_begun, claimed.record.begun or 0)
        if not claimed.is_adoption:
            self._record.note(ConversationState.WARM, ConversationState.BUSY)

    async def _end_unread(self) -> bool:
        """End the recorded turn that cannot be read here. Returns whether there was one."""
        record = await self._record.read()
        if record is None or record.turn is None:
            return False
        parts, lease, turn = self._parts, self._held.lease, record.turn
        await parts.gateway.close_turn(lease.conversation, turn)
        end, idle_s = declared_end(ErrorCode.INTERNAL), parts.agents.idle_timeout_s
        # Number 1, or behind whatever is logged.
        await until_store_answers(
            lambda: parts.turns.finish(
                lease, turn, 1, end, idle_timeout_s=idle_s, memory=Memory.UNKNOWN
            ),
            parts.clock,
        )
        log.info("turn ended unread", extra=fields(turn=turn, conversation=lease.conversation))
        return True
