"""Ownership:

a 15 s lease per conversation with a fence that only grows (scripts acquire, renew, release).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from redis.asyncio import Redis

from infra.store.keys import Keys
from infra.wire.ids import ConversationKey, Fence, HostId, TurnId, WorkerId
from infra.wire.states import ConversationState

LEASE_S = 15.0
RENEW_EVERY_S = 5.0
SELF_FENCE_AFTER_S = 10.0


@dataclass(frozen=True)
class Lease:
    """The exclusive right to run a conversation, until its 15 s are over or renewed."""

    conversation: ConversationKey
    worker: WorkerId
    fence: Fence


@dataclass(frozen=True)
class Renewal:
    """What a renewal of many leases found. `cancelled`: unfinished turns somebody wants stopped."""

    lost: frozenset[ConversationKey] = frozenset()
    cancelled: Mapping[ConversationKey, tuple[TurnId, str]] = field(default_factory=dict)


class LeaseStore:
    def __init__(self, redis: Redis, keys: Keys) -> None: ...

    async def acquire(self, c: ConversationKey, worker: WorkerId, host: HostId) -> Lease:
        """The lease; the worker's own living lease is given again with its fence.

        fence = max(old + 1, Redis TIME in µs). Raises `LeaseHeld` (with the owner) when another
        living worker has it.
        """
        raise NotImplementedError

    async def renew(self, leases: list[Lease]) -> Renewal:
        """One round trip for all of a worker's leases."""
        raise NotImplementedError

    async def release(self, lease: Lease, state: ConversationState) -> None:
        """Give it up and leave the conversation in `state` (cold). A lost lease is no error."""
        raise NotImplementedError
