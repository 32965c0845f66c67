"""The open answers of the clients that asked for a turn.

A repeated turn has several. Each joins in the same step as its submit (`NewTurn.reader`), and when
the last one disconnects, the turn is cancelled, also in one step. A replica that died does not
count; its subscription shows whether it is alive.
"""

from __future__ import annotations

from enum import StrEnum

from redis.asyncio import Redis

from infra.runtime.contents import Contents, PlainContents
from infra.store.bounds import ENDED_TTL_S, EVENTS_MAX
from infra.store.keys import Keys
from infra.store.server.calls import Call
from infra.store.server.connection import translate
from infra.store.server.replies import Answer, optional
from infra.store.server.scripts import Scripts
from infra.store.turns.turns import CANCELLED
from infra.wire.control import CancelTurn
from infra.wire.ids import ConversationKey, ReaderId, TenantId, TurnId

HUNG_UP = "the client hung up"


class TurnLeft(StrEnum):
    """What happened to a turn that a reader left."""

    UNKNOWN = "unknown"
    ENDED = "ended"
    STAYS = "stays"
    READ = "read"
    CANCELLED = "cancelled"


class LeaveAnswer(Answer, frozen=True):
    outcome: TurnLeft


class LeaveCall(Call[LeaveAnswer], frozen=True):
    turn: TurnId
    tenant: TenantId
    reader: ReaderId
    reason: str
    cancelled: bytes
    order: bytes
    events_max: int
    ended_ttl_ms: int


class TurnReaders:
    """The readers of turns: decides which disconnect stops a turn.

    Joining happens in the submit script and leaving in one script, so a disconnect of one client
    never cancels a turn that another client has just joined. All methods are safe to repeat.
    """

    def __init__(
        self,
        redis: Redis,
        keys: Keys,
        *,
        ended_ttl_s: float = ENDED_TTL_S,
        contents: Contents | None = None,
    ) -> None:
        self._redis = redis
        self._keys = keys
        self._scripts = Scripts(redis, keys)
        self._ended_ttl_ms = round(ended_ttl_s * 1000)
        self._contents = contents or PlainContents()

    async def leave(
        self, turn: TurnId, reader: ReaderId, *, tenant: TenantId, hung_up: bool
    ) -> TurnLeft:
        """The reader leaves. If it `hung_up`, nobody else reads the turn and no client wanted it to
        continue, the turn is cancelled.

        Leaving twice is harmless. Raises `StoreUnavailable`.
        """
        with translate():
            c = optional(await self._redis.hget(self._keys.turn(turn), "conv"))  # type: ignore[misc]
        if c is None:
            return TurnLeft.UNKNOWN
        order = CancelTurn(turn=turn, conversation=ConversationKey(c), reason=HUNG_UP)
        answer = await self._scripts.run(
            LeaveCall(
                turn=turn,
                tenant=tenant,
                reader=reader,
                reason=HUNG_UP if hung_up else "",
                cancelled=CANCELLED,
                order=order.encode(),
                events_max=EVENTS_MAX,
                ended_ttl_ms=self._ended_ttl_ms,
            ),
            turn_readers=self._keys.turn_readers(turn),
        )
        return answer.outcome

    async def withdraw(
        self, turn: TurnId, reader: ReaderId, *, tenant: TenantId, idempotency: str | None
    ) -> None:
        """The answer to a submit was lost: whichever turn it created or joined, its reader
        disconnects.

        Raises `StoreUnavailable`.
        """
        turns = [turn]
        if idempotency:
            digest = self._contents.blind(idempotency)
            with translate():
                found = optional(await self._redis.get(self._keys.idempotency(tenant, digest)))
            if found is not None and found not in turns:
                turns.append(TurnId(found))
        for one in turns:
            if await self._reads(one, reader):
                await self.leave(one, reader, tenant=tenant, hung_up=True)

    async def _reads(self, turn: TurnId, reader: ReaderId) -> bool:
        with translate():
            return bool(await self._redis.sismember(self._keys.turn_readers(turn), reader))  # type: ignore[misc]
