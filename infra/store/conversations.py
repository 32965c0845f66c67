"""Conversations: their record, and the idle deadlines (D9)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from redis.asyncio import Redis

from infra.store.connection import translate
from infra.store.keys import Keys
from infra.store.leases import Lease
from infra.store.replies import fields, optional, text
from infra.store.scripts import Scripts
from infra.wire.errors import IllegalTransition, LeaseLost
from infra.wire.ids import ConversationKey, Fence, HostId, TenantId, TurnId, WorkerId
from infra.wire.states import ConversationState
from infra.wire.turns import Lane

REAP_AGAIN_S = 60.0
"""A conversation whose reaper died while stopping it is due again after this long."""


@dataclass(frozen=True)
class ConversationRecord:
    """A conversation's hash, typed. Times in Unix ms."""

    conversation: ConversationKey
    tenant: TenantId
    label: str
    state: ConversationState
    owner: WorkerId | None
    """Who last took the lease and has not given it up; whether it lives, the lease says."""
    host: HostId | None
    """Where its container is, or will be."""
    fence: Fence
    container: str | None
    sdk_session: str | None
    turn: TurnId | None
    """The unfinished turn, if any."""
    turns: int
    created_ms: int
    last_active_ms: int
    idle_at_ms: int | None
    lane: Lane = Lane.AGENT
    """Side: one request's, gone minutes after its turn; no list of conversations shows it."""


class ConversationStore:
    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys
        self._scripts = Scripts(redis, keys)

    async def get(self, c: ConversationKey) -> ConversationRecord | None:
        """What is on record; None for a conversation nobody knows (any more)."""
        with translate():
            held = fields(await self._redis.hgetall(self._keys.conversation(c)))  # type: ignore[misc]
        return _record(c, held) if "state" in held else None

    async def update(
        self,
        lease: Lease,
        state: ConversationState,
        *,
        container: str | None = None,
        sdk_session: str | None = None,
    ) -> None:
        """Move to `state` under the lease; fields given are set.

        A state it has already is no error. Raises `LeaseLost`, `IllegalTransition`.
        """
        c = lease.conversation
        answer = await self._scripts.run(
            "update",
            [self._keys.conversation(c), self._keys.idle()],
            [
                c,
                lease.worker,
                str(lease.fence),
                state.value,
                container or "",
                sdk_session or "",
            ],
        )
        if answer[0] == b"lost":
            raise LeaseLost(c, lease.fence)
        if answer[0] == b"illegal":
            raise IllegalTransition(f"conversation {c}", text(answer[1]), state.value)

    async def due(
        self, *, limit: int = 50
    ) -> Sequence[tuple[ConversationKey, WorkerId | None, HostId | None]]:
        """Conversations whose idle deadline has passed, with their living owner and host."""
        answer = await self._scripts.run("due", [self._keys.idle()], [limit])
        return [
            (ConversationKey(text(c)), _as(WorkerId, owner), _as(HostId, host))
            for c, owner, host in answer
        ]

    async def reap(self, c: ConversationKey, worker: WorkerId) -> bool:
        """Win the right to stop an idle conversation: warm -> stopping.

        Who won ends it with `LeaseStore.release(..., COLD)`; if it dies before, the conversation is
        due again after `REAP_AGAIN_S`.

        False when another won, a turn is waiting or running, the deadline moved, or its living
        owner is another worker.
        """
        answer = await self._scripts.run(
            "reap",
            [self._keys.conversation(c), self._keys.todo(c), self._keys.idle()],
            [c, worker, round(REAP_AGAIN_S * 1000)],
        )
        return bool(answer[0])


_Id = TypeVar("_Id", WorkerId, HostId, TurnId)


def _as(kind: Callable[[str], _Id], reply: object) -> _Id | None:
    value = optional(reply)
    return None if value is None else kind(value)


def _record(c: ConversationKey, held: dict[str, str]) -> ConversationRecord:
    return ConversationRecord(
        conversation=c,
        tenant=TenantId(held.get("tenant", "")),
        label=held.get("label", ""),
        state=ConversationState(held["state"]),
        owner=_as(WorkerId, held.get("owner")),
        host=_as(HostId, held.get("host")),
        fence=Fence(int(held.get("fence", 0))),
        container=held.get("container"),
        sdk_session=held.get("sdk_session"),
        turn=_as(TurnId, held.get("turn")),
        turns=int(held.get("turns", 0)),
        created_ms=int(held.get("created", 0)),
        last_active_ms=int(held.get("last_active", 0)),
        idle_at_ms=int(held["idle_at"]) if "idle_at" in held else None,
        lane=Lane(held.get("lane", Lane.AGENT)),
    )
