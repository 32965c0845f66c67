"""Handles what a previous owner left of a conversation: a container to continue with, or remains to
remove.

Called by `worker.conversations.actor`, once, under the lease.
"""

from __future__ import annotations

import logging

from infra.runtime.logs import fields
from infra.store.conversations.conversations import ConversationRecord
from infra.wire.errors import AgentUnreachable, ContainerFailed, GatewayUnavailable
from infra.wire.ids import ConversationKey, TurnId
from infra.wire.states import ConversationState
from worker.conversations.container.kept_link import KeptLink
from worker.conversations.container.session import HostSession
from worker.conversations.next_step import inherit
from worker.conversations.recorded_state import RecordedState
from worker.conversations.strays import StrayTurn
from worker.hosts.host import ContainerId
from worker.parts import TurnParts
from worker.turns.link.agent_link import AgentLink

log = logging.getLogger(__name__)


class Recovery:
    """The recovery of one conversation."""

    def __init__(
        self,
        parts: TurnParts,
        c: ConversationKey,
        *,
        session: HostSession,
        link: KeptLink,
        record: RecordedState,
    ) -> None:
        self._parts = parts
        self._conversation = c
        self._session = session
        self._link = link
        self._record = record

    async def run(self) -> bool:
        """Find what exists. False if the container that it left to `session` has to be stopped.

        Raises `LeaseLost`.
        """
        if self._record.state is ConversationState.COLD:
            return True
        found = await self._session.found()
        # Asked under the lease, and after the list: nobody else starts anything here from now on.
        record = await self._record.read()
        recorded = record.container if record else None
        left = inherit(found, recorded=recorded, state=self._record.state)
        self._session.adopt(left.kept)
        for other in left.others:
            await self._session.remove(other)
        if left.kept is None:
            return True
        return left.is_usable and await self._adopted(left.kept.id, record)

    async def _adopted(self, container: ContainerId, record: ConversationRecord | None) -> bool:
        """Whether to continue with the container's agent."""
        c = self._conversation
        log.info("container adopted", extra=fields(conversation=c, id=container))
        try:
            await self._session.reopen()
            link = await self._link.reach(timeout_s=self._parts.timings.relink_s)
            working_on = link.welcome.turn
            if working_on and not (record and record.turn == working_on):
                await self._end_stray(link, working_on)
        except GatewayUnavailable as error:
            log.warning("session not registered: %s", error, extra=fields(conversation=c))
        except (AgentUnreachable, ContainerFailed) as error:
            log.warning("agent not reached: %s", error, extra=fields(conversation=c))
            return False
        return True

    async def _end_stray(self, link: AgentLink, turn: TurnId) -> None:
        """Stop an agent's turn that has no record. Raises `AgentUnreachable`."""
        c = self._conversation
        log.warning("stray turn", extra=fields(conversation=c, turn=turn))
        await self._parts.gateway.close_turn(c, turn)
        stray = StrayTurn(turn)
        with self._link.heard_by(stray):
            await stray.end(link, within_s=self._parts.agents.disconnect_grace_s)
