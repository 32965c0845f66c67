"""The agents that are starting on each host, counted over all its workers.

Starting an agent takes seconds of CPU, so a host starts only a few at once, and further turns wait
in the waiting room. `take` counts a start when it gives a turn to a host; the worker reports when
the start begins and when it is over.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from redis.asyncio import Redis

from infra.store.keys import Keys
from infra.store.server.calls import Call
from infra.store.server.connection import translate
from infra.store.server.replies import Answer, OkAnswer
from infra.store.server.scripts import Scripts
from infra.wire.ids import ConversationKey, HostId


class BeginStartAnswer(Answer, frozen=True):
    outcome: Literal["ok", "full"]


class BeginStartCall(Call[BeginStartAnswer], frozen=True):
    conversation: ConversationKey
    host: HostId
    most: int
    life_ms: int


class KeepStartsCall(Call[OkAnswer], frozen=True):
    host: HostId
    life_ms: int
    conversations: Sequence[ConversationKey]


class StartSlots:
    """Limits the concurrent starts of agents on a host, over all its workers.

    A start counts until `end`, or expires if its worker stops reporting it, so a dead worker blocks
    nobody for long. All methods raise `StoreUnavailable` and are safe to repeat.
    """

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys
        self._scripts = Scripts(redis, keys)

    async def begin(self, c: ConversationKey, host: HostId, *, most: int, life_s: float) -> bool:
        """Whether the conversation's agent may start there now.

        It then counts until `end`, until nobody owns the conversation, or for `life_s` seconds
        unless renewed (`keep`). If refused, ask again. Raises `StoreUnavailable`.
        """
        answer = await self._scripts.run(
            BeginStartCall(conversation=c, host=host, most=most, life_ms=round(life_s * 1000)),
            host_starts=self._keys.host_starts(host),
        )
        return answer.outcome == "ok"

    async def keep(self, cs: Sequence[ConversationKey], host: HostId, *, life_s: float) -> None:
        """These agents are still starting, and count for `life_s` seconds from now. One that had
        expired, because Redis was unavailable or emptied, counts again. Raises `StoreUnavailable`.
        """
        await self._scripts.run(
            KeepStartsCall(host=host, life_ms=round(life_s * 1000), conversations=cs)
        )

    async def end(self, c: ConversationKey, host: HostId) -> None:
        """Its agent has started, or will not. Raises `StoreUnavailable`."""
        with translate():
            await self._redis.zrem(self._keys.host_starts(host), c)
