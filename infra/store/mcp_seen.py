"""How agents' MCP servers were when an agent last had them: for operators."""

from __future__ import annotations

from collections.abc import Mapping

from redis.asyncio import Redis

from infra.store.keys import Keys
from infra.store.server.connection import translate
from infra.wire.errors import MalformedMessage
from infra.wire.mcp.secrets import ServerState, decode_server_state

SEEN_TTL_S = 30 * 86400


class McpSeen:
    """By agent and server. All raise `StoreUnavailable`."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys

    async def note(self, agent: str, states: Mapping[str, ServerState]) -> None:
        """These are the agent's servers now; what was noted of others is forgotten."""
        key = self._keys.mcp_seen(agent)
        told = {name: state.encode().decode() for name, state in states.items()}
        with translate():
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.delete(key)
                pipe.hset(key, mapping=told)
                pipe.expire(key, SEEN_TTL_S)
                await pipe.execute()

    async def of(self, agent: str) -> dict[str, ServerState]:
        """Its servers by name. One that cannot be read is none."""
        with translate():
            raws = await self._redis.hgetall(self._keys.mcp_seen(agent))  # type: ignore[misc]
        found = {}
        for name, raw in raws.items():
            try:
                found[name.decode() if isinstance(name, bytes) else name] = decode_server_state(raw)
            except MalformedMessage:
                continue
        return found
