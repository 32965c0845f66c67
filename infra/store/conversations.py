"""Conversations: their record, and the idle deadlines (D9)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from redis.asyncio import Redis

from infra.store.keys import Keys
from infra.store.leases import Lease
from infra.wire.ids import ConversationKey, Fence, HostId, TenantId, TurnId, WorkerId
from infra.wire.states import ConversationState


@dataclass(frozen=True)
class ConversationRecord:
    """A conversation's hash, typed. Times in Unix ms."""

    conversation: ConversationKey
    tenant: TenantId
    label: str
    state: ConversationState
    owner: WorkerId | None
    host: HostId | None
    fence: Fence
    container: str | None
    sdk_session: str | None
    turn: TurnId | None
    """The unfinished turn, if any."""
    turns: int
    created_ms: int
    last_active_ms: int
    idle_at_ms: int | None


class ConversationStore:
    def __init__(self, redis: Redis, keys: Keys) -> None: ...

    async def get(self, c: ConversationKey) -> ConversationRecord | None:
        raise NotImplementedError

    async def update(
        self,
        lease: Lease,
        state: ConversationState,
        *,
        container: str | None = None,
        sdk_session: str | None = None,
    ) -> None:
        """Move to `state` under the lease; fields given are set.

        Raises `LeaseLost`, `IllegalTransition`.
        """
        raise NotImplementedError

    async def due(
        self, *, limit: int = 50
    ) -> Sequence[tuple[ConversationKey, WorkerId | None, HostId | None]]:
        """Conversations whose idle deadline has passed, with their living owner and host."""
        raise NotImplementedError

    async def reap(self, c: ConversationKey, worker: WorkerId) -> bool:
        """Win the right to stop an idle conversation: warm -> stopping.

        False when another won, a turn is waiting or running, the deadline moved, or its living
        owner is another worker.
        """
        raise NotImplementedError
