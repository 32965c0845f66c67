"""Keeps for operators how an agent's MCP servers are."""

from __future__ import annotations

import logging

from infra.store.turns.turns import Claimed
from infra.wire.errors import StoreUnavailable
from infra.wire.ids import WorkerId
from infra.wire.link import McpServers
from infra.wire.mcp.secrets import ServerState
from worker.parts import TurnParts

log = logging.getLogger(__name__)


async def note_servers(
    parts: TurnParts, claimed: Claimed, told: McpServers | None, *, worker: WorkerId
) -> None:
    """What the turn's agent told of them; of servers that its profile does not have, nothing.

    Never raises: the next turn tells it again.
    """
    agent, profile = claimed.request.agent, claimed.profile
    if told is None or agent is None or profile is None:
        return
    seen_ms = parts.clock.unix_ms()
    states = {
        one.name: ServerState(
            status=one.status,
            tools=one.tools,
            detail=one.detail,
            seen_ms=seen_ms,
            seen_by=worker,
        )
        for one in told.servers
        if one.name in profile.mcp_servers
    }
    try:
        if states:
            await parts.mcp_seen.note(agent.name, states)
    except StoreUnavailable as error:
        log.info("state of mcp servers not kept: %s", error)
