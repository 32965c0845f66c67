"""Ownership: a 15 s lease per conversation, with a fence that only grows (scripts acquire, renew,
release)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from redis.asyncio import Redis

from infra.store.keys import Keys
from infra.store.server.calls import Call
from infra.store.server.replies import Answer, AnswerRow
from infra.store.server.scripts import Scripts
from infra.wire.errors import IllegalTransition, LeaseHeld
from infra.wire.ids import ConversationKey, Fence, HostId, TurnId, WorkerId
from infra.wire.states import ConversationState

LEASE_S = 15.0
RENEW_EVERY_S = 5.0
SELF_FENCE_AFTER_S = 10.0
SURE_LEASE_S = LEASE_S - RENEW_EVERY_S - 1.0
"""What a lease has left at least, in seconds, if its owner renews it in time."""

_UNKNOWN_CONVERSATION_TTL_S = 86400
"""Seconds that a conversation is kept which only its container still knew (Redis had been
emptied)."""


_NONE = Fence(0)


@dataclass(frozen=True)
class Lease:
    """The exclusive right to run a conversation, until its 15 s have passed or it is renewed."""

    conversation: ConversationKey
    worker: WorkerId
    fence: Fence


@dataclass(frozen=True)
class Renewal:
    """The result of renewing many leases. `cancelled`: unfinished turns that somebody wants
    stopped."""

    lost: frozenset[ConversationKey] = frozenset()
    cancelled: Mapping[ConversationKey, tuple[TurnId, str]] = field(default_factory=dict)


class AcquireAnswer(Answer, frozen=True):
    outcome: Literal["ok", "held"]
    fence: Fence = _NONE
    owner: str = ""


class AcquireCall(Call[AcquireAnswer], frozen=True):
    conversation: ConversationKey
    worker: WorkerId
    host: HostId
    lease_ms: int
    unknown_ttl_ms: int
    above: Fence


class CancelledTurn(AnswerRow, frozen=True):
    conversation: ConversationKey
    turn: TurnId
    reason: str


class RenewAnswer(Answer, frozen=True):
    outcome: Literal["ok"]
    lost: Sequence[ConversationKey]
    cancelled: Sequence[CancelledTurn]


class LeaseToRenew(NamedTuple):
    conversation: ConversationKey
    worker: WorkerId
    fence: Fence


class RenewCall(Call[RenewAnswer], frozen=True):
    lease_ms: int
    leases: Sequence[LeaseToRenew]


class ReleaseAnswer(Answer, frozen=True):
    outcome: Literal["ok", "lost", "illegal"]
    waiting: TurnId | None = None
    state: str = ""


class ReleaseCall(Call[ReleaseAnswer], frozen=True):
    conversation: ConversationKey
    worker: WorkerId
    fence: Fence
    state: ConversationState
    runs: TurnId | None


class LeaseStore:
    """The leases of conversations: at most one worker owns a conversation at any time.

    A lease lasts 15 s and is renewed every 5 s. A worker that has not renewed must stop writing by
    its own clock before the 15 s are over; if it does not, its writes are refused, because each
    carries the lease's fence, and a fence is never issued twice, not even after a failover. All
    methods raise `StoreUnavailable`; then the lease's state is unknown, and repeating the call is
    safe.
    """

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._keys = keys
        self._scripts = Scripts(redis, keys)

    async def acquire(
        self, c: ConversationKey, worker: WorkerId, host: HostId, *, above: Fence = _NONE
    ) -> Lease:
        """Take the lease. The worker's own valid lease is returned again, with its fence.

        fence = max(old + 1, Redis TIME in µs, `above` + 1). `above` is the newest fence that the
        worker knows, because after a failover the clock of the new Redis machine may be behind.
        Raises `LeaseHeld` (with the owner) if another live worker has it.
        """
        answer = await self._scripts.run(
            AcquireCall(
                conversation=c,
                worker=worker,
                host=host,
                lease_ms=_ms(LEASE_S),
                unknown_ttl_ms=_ms(_UNKNOWN_CONVERSATION_TTL_S),
                above=above,
            ),
            conversation=self._keys.conversation(c),
            lease=self._keys.lease(c),
        )
        if answer.outcome == "held":
            raise LeaseHeld(c, answer.owner)
        return Lease(c, worker, answer.fence)

    async def renew(self, leases: list[Lease]) -> Renewal:
        """Renew all of a worker's leases in one round trip."""
        if not leases:
            return Renewal()
        asked = [LeaseToRenew(one.conversation, one.worker, one.fence) for one in leases]
        answer = await self._scripts.run(RenewCall(lease_ms=_ms(LEASE_S), leases=asked))
        cancelled = {found.conversation: (found.turn, found.reason) for found in answer.cancelled}
        return Renewal(frozenset(answer.lost), cancelled)

    async def release(
        self, lease: Lease, state: ConversationState, *, runs: TurnId | None = None
    ) -> TurnId | None:
        """Give the lease up and leave the conversation in `state` (cold). A lost lease is not an
        error.

        If the table has no direct transition, cold is reached through stopping; the current state
        is allowed too (a handover leaves it warm or busy). The next sweep finds an unfinished turn.
        `runs` is the turn that its owner works on; one that was begun for it and that it does not
        work on waits again.
        Returns the waiting turn if there is one and none is unfinished, because only this owner was
        told of it. Raises `IllegalTransition`.
        """
        c = lease.conversation
        answer = await self._scripts.run(
            ReleaseCall(
                conversation=c, worker=lease.worker, fence=lease.fence, state=state, runs=runs
            ),
            conversation=self._keys.conversation(c),
            lease=self._keys.lease(c),
            idle=self._keys.idle(),
            turns_open=self._keys.turns_open(),
            todo=self._keys.todo(c),
        )
        if answer.outcome == "illegal":
            raise IllegalTransition(f"conversation {c}", answer.state, state)
        return answer.waiting


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
