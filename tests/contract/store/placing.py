"""The waiting room in the tests' words: tenants, their conversations, workers with so much room."""

from __future__ import annotations

from infra.store.placement.waiting_room import Elsewhere, NoRoom, Taken
from infra.store.placement.workers import WorkerRecord
from infra.wire.ids import ConversationKey, HostId, TenantId, TurnId, WorkerId
from infra.wire.states import WorkerState
from tests.contract.store.scene import HOST_A, W1, Scene

A, B, D = (TenantId(letter * 20) for letter in "abd")

PATIENCE_S = 60.0
IDLE_MB = 200


def conversation_of(tenant: TenantId, n: int) -> ConversationKey:
    return ConversationKey(f"{tenant[-4:]}{n:020x}")


def owner_in(given: Taken | Elsewhere | NoRoom | None, asked: WorkerId) -> WorkerId | None:
    """Who places what `take` gave; None: nobody."""
    match given:
        case Taken():
            return asked
        case Elsewhere():
            return given.worker
        case _:
            return None


class Room:
    """The scene's waiting room."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.keys = scene.keys

    async def wait(self, tenant: TenantId, n: int = 0) -> TurnId:
        """A turn of the tenant's n-th conversation is asked for."""
        new = self.scene.new_turn(conversation_of(tenant, n), tenant=tenant)
        return (await self.scene.offer(new, waiting_max=1000)).turn

    async def take(
        self,
        worker: WorkerId = W1,
        host: HostId = HOST_A,
        *,
        home_patience_s: float = PATIENCE_S,
        has_room: bool = True,
        spares: int = 0,
    ) -> Taken | Elsewhere | NoRoom | None:
        return await self.scene.store.room.take(
            worker,
            host,
            home_patience_s=home_patience_s,
            container_mb=IDLE_MB,
            has_room=has_room,
            spares=spares,
        )

    async def taken(self, worker: WorkerId = W1, host: HostId = HOST_A) -> TurnId:
        """The turn that is next."""
        given = await self.take(worker, host)
        assert isinstance(given, Taken), given
        return given.turn

    async def is_empty(self) -> bool:
        """Nothing of it is left in Redis."""
        redis, keys = self.scene.redis, self.keys
        rooms = [name async for name in redis.scan_iter(f"{keys.ring()}*")]
        return not rooms and not await redis.zcard(keys.turns_waiting())

    async def beat(
        self,
        worker: WorkerId,
        *,
        slots: int = 8,
        used: int = 0,
        host: HostId = HOST_A,
        state: WorkerState = WorkerState.READY,
        memory_mb: int | None = None,
        starts_max: int | None = None,
        spares: int = 0,
    ) -> None:
        """A heartbeat; a new container needs 1000 MB."""
        await self.scene.store.workers.beat(
            WorkerRecord(
                worker=worker,
                host=host,
                pid=1,
                version="0",
                slots=slots,
                used=used,
                state=state,
                started_ms=1,
                memory_mb=memory_mb,
                memory_needed_mb=1000,
                starts_max=starts_max,
                spares=spares,
            )
        )
