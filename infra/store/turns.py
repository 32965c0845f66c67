"""Turns: submit, claim, cancel, finish; the turn's record. The log's bytes are in `turn_log`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from redis.asyncio import Redis

from infra.store.keys import Keys
from infra.store.leases import Lease
from infra.wire.events import TurnEnded
from infra.wire.ids import ConversationKey, Fence, ReplicaId, TenantId, TurnId, WorkerId
from infra.wire.states import TurnState
from infra.wire.turns import OnDisconnect, TurnRequest

ATTEMPTS_MAX = 2


@dataclass(frozen=True)
class NewTurn:
    """All that submit writes."""

    request: TurnRequest
    replica: ReplicaId
    sealed_key: str
    key_expires_ms: int
    on_disconnect: OnDisconnect = OnDisconnect.CANCEL
    label: str = ""
    """The client's own conversation id, cleaned for display."""
    idempotency: str | None = None
    """Digest that makes a repeat of the request the same turn."""


@dataclass(frozen=True)
class Submitted:
    """`turn` is the earlier one when the request is a repeat (`created` False).

    `owner` is the conversation's living owner, if any: enqueue for it. `position` counts the turns
    of the conversation ahead of this one.
    """

    turn: TurnId
    created: bool
    owner: WorkerId | None
    position: int


@dataclass(frozen=True)
class TurnRecord:
    """A turn's hash, typed. Times in Unix ms."""

    turn: TurnId
    conversation: ConversationKey
    tenant: TenantId
    replica: ReplicaId
    state: TurnState
    model: str
    attempt: int
    fence: Fence
    seq: int
    """Newest number in the log; 0: empty."""
    created_ms: int
    sealed_key: str | None
    key_expires_ms: int
    on_disconnect: OnDisconnect
    cancel: str | None
    """Reason, when somebody asked for it to stop."""
    ended_ms: int | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Claimed:
    """`is_adoption`:

    the turn was already begun by an owner that is gone; its agent may still run it.
    """

    record: TurnRecord
    request: TurnRequest
    is_adoption: bool


@dataclass(frozen=True)
class OpenTurnRef:
    """An open turn the sweeper found; `owner` is the conversation's living owner."""

    turn: TurnId
    conversation: ConversationKey
    state: TurnState
    owner: WorkerId | None
    age_ms: int


class TurnStore:
    def __init__(self, redis: Redis, keys: Keys) -> None: ...

    async def submit(self, new: NewTurn, *, waiting_max: int, retention_s: float) -> Submitted:
        """Create the turn and put it into its conversation's FIFO, or find the one it repeats.

        Raises `RequestRefused(QUEUE_FULL)` and `StoreUnavailable`.
        """
        raise NotImplementedError

    async def claim(self, lease: Lease) -> Claimed | None:
        """The conversation's unfinished turn (adoption), else the head of its FIFO, else None.

        Counts the attempt before the start; a turn out of attempts is finished as failed and the
        next is taken; one cancelled meanwhile is skipped. Raises `LeaseLost`.
        """
        raise NotImplementedError

    async def start(self, lease: Lease, turn: TurnId) -> None:
        """claimed -> running: from now on the turn may have had effects. Raises `LeaseLost`."""
        raise NotImplementedError

    async def requeue(self, lease: Lease, turn: TurnId) -> bool:
        """claimed -> queued, at the FIFO's head.

        False when its log is not empty or attempts are spent.
        """
        raise NotImplementedError

    async def finish(
        self, lease: Lease, turn: TurnId, n: int, end: TurnEnded, *, idle_timeout_s: float
    ) -> bool:
        """Log the end event under number `n`, delete the sealed key, close the turn.

        Sets the conversation's idle deadline when nothing waits. True when another turn waits.
        Finishing twice is harmless. Raises `LeaseLost`.
        """
        raise NotImplementedError

    async def cancel(self, turn: TurnId, *, tenant: TenantId, reason: str) -> TurnState:
        """Ask for the end of a turn; the state it is now in.

        A queued turn is cancelled at once (its log gets an end event). Of a running one the flag is
        set and its worker told. Raises `TurnNotFound` for an unknown turn or another tenant's.
        """
        raise NotImplementedError

    async def expire(self, turn: TurnId, *, reason: str) -> bool:
        """queued -> expired with an end event (code queue_timeout).

        False when it is not queued any more.
        """
        raise NotImplementedError

    async def get(self, turn: TurnId) -> TurnRecord | None:
        raise NotImplementedError

    async def unclaimed(self, *, older_than_ms: int, limit: int = 50) -> list[OpenTurnRef]:
        """Open turns due for a look: queued ones nobody claimed, begun ones whose lease lapsed.

        Each is moved ahead in `turns:open`, so that sweepers do not all find the same.
        """
        raise NotImplementedError

    async def counts(self) -> Mapping[str, int]:
        """Numbers for health and metrics: open, idle, workers."""
        raise NotImplementedError
