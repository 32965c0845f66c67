"""What the store's tests say over and over: a turn is asked for, a worker takes it, time passes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.asyncio import Redis

from infra.runtime.identity import new_turn_id
from infra.store.access.limits import SubmitLimits
from infra.store.conversations.leases import Lease
from infra.store.keys import Keys
from infra.store.open import Store, store_on
from infra.store.server.connection import connect
from infra.store.turns.turns import Claimed, NewTurn, Submitted
from infra.wire.errors import ErrorCode
from infra.wire.events import TextDelta, TurnEnded, TurnError, encode_event
from infra.wire.ids import ConversationKey, HostId, ReplicaId, TenantId, TurnId, WorkerId
from infra.wire.states import ConversationState, TurnState
from infra.wire.turns import OnDisconnect, TextBlock, TurnRequest

C = ConversationKey("c" * 24)
OTHER_C = ConversationKey("d" * 24)
TENANT = TenantId("t" * 20)
OTHER_TENANT = TenantId("u" * 20)
REPLICA = ReplicaId("api-1")
W1, W2 = WorkerId("host-a-00000001"), WorkerId("host-a-00000002")
W3 = WorkerId("host-b-00000003")
HOST_A, HOST_B = HostId("host-a"), HostId("host-b")

DONE = TurnEnded(state=TurnState.DONE)
CANCELLED = TurnEnded(state=TurnState.CANCELLED)


def failed(code: ErrorCode = ErrorCode.CONTAINER_LOST) -> TurnEnded:
    return TurnEnded(state=TurnState.FAILED, error=TurnError(code=code, message="It went wrong."))


def end_in(state: TurnState) -> TurnEnded:
    """An end event of any terminal state."""
    if state in (TurnState.DONE, TurnState.CANCELLED):
        return TurnEnded(state=state)
    return TurnEnded(state=state, error=TurnError(code=ErrorCode.INTERNAL, message="It ended."))


def text_events(first: int, count: int) -> list[tuple[int, bytes]]:
    return [(n, encode_event(TextDelta(text=f"word {n}"))) for n in range(first, first + count)]


class Scene:
    """A store with the sentences of the tests."""

    def __init__(self, redis: Redis, keys: Keys, *, tenant_bytes_max: int = 0) -> None:
        self.store: Store = store_on(redis, keys, tenant_bytes_max=tenant_bytes_max)
        self.redis = redis
        self.keys = keys

    def new_turn(
        self,
        c: ConversationKey = C,
        *,
        turn: TurnId | None = None,
        tenant: TenantId = TENANT,
        replica: ReplicaId = REPLICA,
        idempotency: str | None = None,
        idle_timeout_s: float = 60.0,
        label: str = "",
        is_thin: bool = False,
        sent: tuple[str, ...] = (),
        answers: tuple[str, ...] = (),
    ) -> NewTurn:
        request = TurnRequest(
            turn=turn or new_turn_id(),
            conversation=c,
            tenant=tenant,
            model="claude-test",
            prompt=(TextBlock(text="Hello"),),
            deadline_s=600,
            idle_timeout_s=idle_timeout_s,
            is_thin=is_thin,
            sent=sent,
            answers=answers,
        )
        return NewTurn(
            request=request,
            replica=replica,
            sealed_key="v1.sealed",
            key_expires_ms=1_900_000_000_000,
            on_disconnect=OnDisconnect.CONTINUE,
            label=label,
            idempotency=idempotency,
        )

    async def counts(self) -> dict[str, int]:
        """How many turns are open, and how many conversations idle."""
        indices = {"open": self.keys.turns_open(), "idle": self.keys.idle()}
        return {name: await self.redis.zcard(key) for name, key in indices.items()}

    async def offer(
        self, new: NewTurn, *, waiting_max: int = 8, limits: SubmitLimits | None = None
    ) -> Submitted:
        limits = limits or SubmitLimits(turns_waiting_max=waiting_max)
        return await self.store.turns.submit(new, limits=limits, retention_s=3600)

    async def submit(self, c: ConversationKey = C, *, is_thin: bool = False) -> TurnId:
        return (await self.offer(self.new_turn(c, is_thin=is_thin))).turn

    async def acquire(self, worker: WorkerId = W1, c: ConversationKey = C) -> Lease:
        host = HOST_B if worker == W3 else HOST_A
        return await self.store.leases.acquire(c, worker, host)

    async def claim(self, lease: Lease) -> Claimed:
        claimed = await self.store.turns.claim(lease)
        assert claimed is not None
        return claimed

    async def begin(self, worker: WorkerId = W1, c: ConversationKey = C) -> tuple[Lease, TurnId]:
        """A turn submitted, claimed and started in a warm container."""
        turn = await self.submit(c)
        lease = await self.acquire(worker, c)
        assert (await self.claim(lease)).record.turn == turn
        await self.warm_up(lease)
        await self.store.turns.start(lease, turn)
        return lease, turn

    async def warm_up(self, lease: Lease) -> None:
        await self.store.conversations.update(lease, ConversationState.STARTING)
        await self.store.conversations.update(lease, ConversationState.BUSY, container="box-1")

    async def lapse(self, c: ConversationKey = C) -> None:
        """The owner has been silent for longer than its lease."""
        await self.redis.delete(self.keys.lease(c))

    async def turn_state(self, turn: TurnId) -> TurnState:
        record = await self.store.turns.get(turn)
        assert record is not None
        return record.state

    async def conversation_state(self, c: ConversationKey = C) -> ConversationState:
        record = await self.store.conversations.get(c)
        assert record is not None
        return record.state

    async def force_turn(self, turn: TurnId, state: TurnState) -> None:
        """Put the turn's record into a state, past every rule."""
        await self.redis.hset(self.keys.turn(turn), "state", state.value)  # type: ignore[misc]

    async def force_conversation(self, state: ConversationState, c: ConversationKey = C) -> None:
        await self.redis.hset(self.keys.conversation(c), "state", state.value)  # type: ignore[misc]


@asynccontextmanager
async def scene_at(url: str, keys: Keys, *, timeout_s: float = 2.0) -> AsyncIterator[Scene]:
    """The scene on a server of the test's own."""
    scene = Scene(connect(url, timeout_s=timeout_s, name="test"), keys)
    try:
        yield scene
    finally:
        await scene.store.aclose()
