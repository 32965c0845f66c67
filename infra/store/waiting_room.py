"""The waiting room: who is placed next, and where.

A turn that no living owner was told of waits in it. Tenants are served in turn (the ring), a
tenant's conversations in the order they came. A hint in the queue says only that something waits;
what a worker is to place, it asks here (`take`). Conversations enter and leave the room in the
scripts of turns and leases, so it can never differ from what waits for long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from redis.asyncio import Redis

from infra.store.keys import Keys
from infra.store.server.connection import translate
from infra.store.server.replies import text
from infra.store.server.scripts import Scripts
from infra.wire.ids import ConversationKey, HostId, TurnId, WorkerId


@dataclass(frozen=True)
class Taken:
    """Yours to place: acquire it, or `put_back`."""

    conversation: ConversationKey
    turn: TurnId


@dataclass(frozen=True)
class Elsewhere:
    """Another worker's to place: hint it."""

    worker: WorkerId
    turn: TurnId


@dataclass(frozen=True)
class NoRoom:
    """Something waits, and neither the worker that asked nor another one can take it now."""


class WaitingRoom:
    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys
        self._scripts = Scripts(redis, keys)

    async def take(
        self,
        worker: WorkerId,
        host: HostId,
        *,
        home_patience_s: float,
        container_mb: int,
        has_room: bool = True,
    ) -> Taken | Elsewhere | NoRoom | None:
        """What a worker that has room is to do with a hint. None: nothing waits.

        A turn younger than `home_patience_s` goes to the host of its conversation's files while a
        worker there has room; else to the one that asks, unless another is clearly less loaded.
        `container_mb` is what a container takes of a host's memory at first. What is taken has left
        the room; if its taker dies, a sweep (`TurnStore.unclaimed`) puts it back. `has_room` False:
        only what another worker can take is given. Raises `StoreUnavailable`.
        """
        answer = await self._scripts.run(
            "take",
            [self._keys.ring(), self._keys.workers(), self._keys.worker(worker)],
            [worker, host, round(home_patience_s * 1000), container_mb, int(has_room)],
        )
        match answer[0]:
            case b"taken":
                return Taken(ConversationKey(text(answer[1])), TurnId(text(answer[2])))
            case b"elsewhere":
                return Elsewhere(WorkerId(text(answer[1])), TurnId(text(answer[2])))
            case b"full":
                return NoRoom()
            case _:
                return None

    async def gives_way(self, c: ConversationKey, *, waited_s: float, giving_way: int) -> bool:
        """Whether the conversation is to leave its place to another tenant's.

        Asked by a worker without room before a warm conversation takes its next turn. True when
        more tenants than give way already (`giving_way`) have waited for `waited_s`. Raises
        `StoreUnavailable`.
        """
        answer = await self._scripts.run(
            "gives_way",
            [self._keys.conversation(c), self._keys.todo(c), self._keys.ring()],
            [round(waited_s * 1000), giving_way],
        )
        return bool(answer[0])

    async def waiting(self, *, limit: int) -> Sequence[TurnId]:
        """Turns that wait for a worker, the longest waiting first. Raises `StoreUnavailable`."""
        with translate():
            found = await self._redis.zrange(self._keys.turns_waiting(), 0, limit - 1)
        return [TurnId(text(turn)) for turn in found]

    async def put_back(self, turn: TurnId, worker: WorkerId) -> bool:
        """The worker it was given to has no room for it after all.

        Its tenant is next, and the worker counts as full until its next heartbeat. True when the
        turn waits, so that a hint is needed. Raises `StoreUnavailable`.
        """
        answer = await self._scripts.run(
            "put_back", [self._keys.turn(turn), self._keys.worker(worker)], [turn]
        )
        return bool(answer[0])
