"""Ownership:

a 15 s lease per conversation with a fence that only grows (scripts acquire, renew, release).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from redis.asyncio import Redis

from infra.store.keys import Keys
from infra.store.server.replies import optional, text
from infra.store.server.scripts import Scripts
from infra.wire.errors import IllegalTransition, LeaseHeld
from infra.wire.ids import ConversationKey, Fence, HostId, TurnId, WorkerId
from infra.wire.states import ConversationState

LEASE_S = 15.0
RENEW_EVERY_S = 5.0
SELF_FENCE_AFTER_S = 10.0

_UNKNOWN_CONVERSATION_TTL_S = 86400
"""How long a conversation stays that only its container still knew (Redis had been emptied)."""


_NONE = Fence(0)


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
    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._keys = keys
        self._scripts = Scripts(redis, keys)

    async def acquire(
        self, c: ConversationKey, worker: WorkerId, host: HostId, *, above: Fence = _NONE
    ) -> Lease:
        """The lease; the worker's own living lease is given again with its fence.

        fence = max(old + 1, Redis TIME in µs, `above` + 1). `above` is the newest fence the worker
        has been given: the clock of another Redis machine, after a failover, may be behind it.
        Raises `LeaseHeld` (with the owner) when another
        living worker has it.
        """
        answer = await self._scripts.run(
            "acquire",
            [self._keys.conversation(c), self._keys.lease(c)],
            [worker, host, _ms(LEASE_S), _ms(_UNKNOWN_CONVERSATION_TTL_S), c, str(above)],
        )
        if answer[0] == b"held":
            raise LeaseHeld(c, text(answer[1]))
        return Lease(c, worker, Fence(int(answer[1])))

    async def renew(self, leases: list[Lease]) -> Renewal:
        """One round trip for all of a worker's leases."""
        if not leases:
            return Renewal()
        keys = [
            name
            for lease in leases
            for name in (
                self._keys.conversation(lease.conversation),
                self._keys.lease(lease.conversation),
            )
        ]
        args = [part for lease in leases for part in (lease.worker, str(lease.fence))]
        answers = await self._scripts.run("renew", keys, [_ms(LEASE_S), *args])
        lost: set[ConversationKey] = set()
        cancelled: dict[ConversationKey, tuple[TurnId, str]] = {}
        for lease, answer in zip(leases, answers, strict=True):
            if answer[0] == b"lost":
                lost.add(lease.conversation)
            elif reason := optional(answer[2]):
                cancelled[lease.conversation] = (TurnId(text(answer[1])), reason)
        return Renewal(frozenset(lost), cancelled)

    async def release(self, lease: Lease, state: ConversationState) -> TurnId | None:
        """Give it up and leave the conversation in `state` (cold). A lost lease is no error.

        Cold is reached through stopping where the table has no direct step; the state it has
        already is fine, too (a handover leaves it warm or busy). An unfinished turn then comes up
        in the next sweep. Returns the turn that waits if there is one and none is unfinished: only
        this owner was told of it. Raises `IllegalTransition`.
        """
        c = lease.conversation
        answer = await self._scripts.run(
            "release",
            [
                self._keys.conversation(c),
                self._keys.lease(c),
                self._keys.idle(),
                self._keys.turns_open(),
                self._keys.todo(c),
            ],
            [c, lease.worker, str(lease.fence), state.value],
        )
        if answer[0] == b"illegal":
            raise IllegalTransition(f"conversation {c}", text(answer[1]), state.value)
        waiting = optional(answer[1]) if answer[0] == b"ok" else None
        return TurnId(waiting) if waiting else None


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
