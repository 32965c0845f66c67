"""The waiting room decides who is placed next, and where.

A turn waits in it if no live owner was told of the turn. Tenants are served in turn (the ring), a
tenant's conversations in the order in which they came. A hint in the queue only says that something
waits; a worker asks here (`take`) what to place. Conversations enter and leave the room in the
scripts for turns and leases, so it cannot differ for long from what really waits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from redis.asyncio import Redis

from infra.store.keys import Keys
from infra.store.server.calls import Call
from infra.store.server.connection import translate
from infra.store.server.replies import Answer, text
from infra.store.server.scripts import Scripts
from infra.wire.ids import ConversationKey, HostId, TurnId, WorkerId

_NO_CONVERSATION, _NO_WORKER, _NO_TURN = ConversationKey(""), WorkerId(""), TurnId("")


@dataclass(frozen=True)
class Taken:
    """Yours to place: acquire it, or `put_back`."""

    conversation: ConversationKey
    turn: TurnId


@dataclass(frozen=True)
class Elsewhere:
    """Another worker has to place it: send it a hint."""

    worker: WorkerId
    turn: TurnId


@dataclass(frozen=True)
class NoRoom:
    """Something waits, but neither the asking worker nor another one can take it now."""


class TakeAnswer(Answer, frozen=True):
    outcome: Literal["taken", "elsewhere", "none", "full"]
    conversation: ConversationKey = _NO_CONVERSATION
    worker: WorkerId = _NO_WORKER
    turn: TurnId = _NO_TURN


class TakeCall(Call[TakeAnswer], frozen=True):
    worker: WorkerId
    host: HostId
    home_patience_ms: int
    container_mb: int
    has_room: bool
    spares: int


class GivesWayAnswer(Answer, frozen=True):
    outcome: Literal["gives_way", "stays"]


class GivesWayCall(Call[GivesWayAnswer], frozen=True):
    waited_ms: int
    giving_way: int


class PutBackAnswer(Answer, frozen=True):
    outcome: Literal["waits", "nothing"]


class PutBackCall(Call[PutBackAnswer], frozen=True):
    turn: TurnId


class WaitingRoom:
    """The conversations that wait for a worker, shared fairly between tenants.

    Each `take` gives a conversation to one worker only. A conversation that was taken but never
    acquired returns with the next sweep, so nothing is lost if a worker dies in between. All
    methods raise `StoreUnavailable`.
    """

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
        spares: int = 0,
    ) -> Taken | Elsewhere | NoRoom | None:
        """What a worker with room should do about a hint. None: nothing waits.

        A turn younger than `home_patience_s` seconds goes to the host with its conversation's
        files, while a worker there has room; otherwise to the asking worker, unless another one is
        clearly less loaded. `container_mb` is what a container takes of a host's memory at first.
        What is taken has left the room; if its taker dies, a sweep (`TurnStore.unclaimed`) puts it
        back. `has_room` False: only conversations that another worker can take are given. `spares`:
        how many ready ones the asking worker may still give to conversations, which needs no start
        slot. Raises `StoreUnavailable`.
        """
        answer = await self._scripts.run(
            TakeCall(
                worker=worker,
                host=host,
                home_patience_ms=round(home_patience_s * 1000),
                container_mb=container_mb,
                has_room=has_room,
                spares=spares,
            ),
            ring=self._keys.ring(),
            workers=self._keys.workers(),
        )
        match answer.outcome:
            case "taken":
                return Taken(answer.conversation, answer.turn)
            case "elsewhere":
                return Elsewhere(answer.worker, answer.turn)
            case "full":
                return NoRoom()
            case "none":
                return None

    async def gives_way(self, c: ConversationKey, *, waited_s: float, giving_way: int) -> bool:
        """Whether the conversation should give its place to another tenant's.

        A worker without room asks this before a warm conversation takes its next turn. True if more
        tenants have waited for `waited_s` seconds than already give way (`giving_way`). Raises
        `StoreUnavailable`.
        """
        answer = await self._scripts.run(
            GivesWayCall(waited_ms=round(waited_s * 1000), giving_way=giving_way),
            conversation=self._keys.conversation(c),
            todo=self._keys.todo(c),
            ring=self._keys.ring(),
        )
        return answer.outcome == "gives_way"

    async def waiting(self, *, limit: int) -> Sequence[TurnId]:
        """Turns that wait for a worker, the longest waiting first. Raises `StoreUnavailable`."""
        with translate():
            found = await self._redis.zrange(self._keys.turns_waiting(), 0, limit - 1)
        return [TurnId(text(turn)) for turn in found]

    async def put_back(self, turn: TurnId, worker: WorkerId) -> bool:
        """The worker that it was given to has no room for it after all.

        Its tenant is next, and the worker counts as full until its next heartbeat. Returns True if
        the turn waits, so that a hint is needed. Raises `StoreUnavailable`.
        """
        answer = await self._scripts.run(PutBackCall(turn=turn), worker=self._keys.worker(worker))
        return answer.outcome == "waits"
