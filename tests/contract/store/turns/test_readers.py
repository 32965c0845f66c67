"""Who reads a turn, and what the last one's leaving means: one step each, so nothing comes between.

A repeat lost its turn to the hang-up of the first request: it had found the turn and was not yet
counted among its readers, or it came when nobody read the turn any more and the cancel was under
way.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from infra.store.turns.readers import HUNG_UP, TurnLeft
from infra.store.turns.turns import NewTurn, RepeatOf, Submitted
from infra.wire.ids import ReaderId, ReplicaId, TurnId
from infra.wire.states import TurnState
from infra.wire.turns import OnDisconnect
from tests.contract.store.scene import OTHER_TENANT, REPLICA, TENANT, Scene

DEAD_READER = ReaderId("api-dead 1")


def reader(serial: int, replica: ReplicaId = REPLICA) -> ReaderId:
    return ReaderId(f"{replica} {serial}")


def read_by(scene: Scene, who: ReaderId, **more: object) -> NewTurn:
    wanted: dict[str, Any] = {"reader": who, "on_disconnect": OnDisconnect.CANCEL} | more
    return replace(scene.new_turn(idempotency="digest"), **wanted)


@asynccontextmanager
async def living_replica(scene: Scene) -> AsyncIterator[None]:
    """The replica of the tests' readers has its subscription."""
    async with scene.redis.pubsub() as subscription:
        await subscription.subscribe(scene.keys.replica_channel(REPLICA))
        await subscription.get_message(timeout=5)
        yield


async def hang_up(scene: Scene, turn: TurnId, who: ReaderId) -> TurnLeft:
    return await scene.store.readers.leave(turn, who, tenant=TENANT, hung_up=True)


async def withdraw(scene: Scene, new: NewTurn) -> None:
    assert new.reader is not None
    await scene.store.readers.withdraw(
        new.request.turn, new.reader, tenant=TENANT, idempotency=new.idempotency
    )


async def state_of(scene: Scene, turn: TurnId) -> TurnState:
    record = await scene.store.turns.get(turn)
    assert record is not None
    return record.state


async def first_and_repeat(scene: Scene, **more: object) -> tuple[Submitted, Submitted]:
    first = await scene.offer(read_by(scene, reader(1)))
    return first, await scene.offer(read_by(scene, reader(2), **more))


async def test_last_reader_that_hangs_up_cancels_the_turn(scene: Scene) -> None:
    async with living_replica(scene):
        first, repeat = await first_and_repeat(scene)
        assert (repeat.turn, repeat.is_joined) == (first.turn, True)
        assert await hang_up(scene, first.turn, reader(1)) is TurnLeft.READ
        assert await hang_up(scene, first.turn, reader(1)) is TurnLeft.READ, "twice is harmless"
        assert await hang_up(scene, first.turn, reader(2)) is TurnLeft.CANCELLED
    record = await scene.store.turns.get(first.turn)
    assert record is not None
    assert (record.state, record.reason) == (TurnState.CANCELLED, HUNG_UP)
    assert await scene.redis.exists(scene.keys.turn_readers(first.turn)) == 0


async def test_repeat_joins_in_the_step_of_its_submit(scene: Scene) -> None:
    """Between the answer to its submit and its first look at the turn, the first one hangs up."""
    async with living_replica(scene):
        first, _ = await first_and_repeat(scene)
        assert await hang_up(scene, first.turn, reader(1)) is TurnLeft.READ
    assert await state_of(scene, first.turn) is TurnState.QUEUED


async def test_repeat_after_the_last_hang_up_finds_a_turn_that_is_over(scene: Scene) -> None:
    """There is no moment in which nobody reads a turn, and it can still be joined."""
    async with living_replica(scene):
        first = await scene.offer(read_by(scene, reader(1)))
        lease = await scene.acquire()
        await scene.claim(lease)
        await scene.store.turns.start(lease, first.turn)
        assert await hang_up(scene, first.turn, reader(1)) is TurnLeft.CANCELLED
        late = await scene.offer(read_by(scene, reader(2)))
        assert (late.turn, late.created, late.is_joined) == (first.turn, False, False)
        record = await scene.store.turns.get(first.turn)
        assert record is not None
        assert record.cancel == HUNG_UP
        new = await scene.offer(read_by(scene, reader(2), supersedes=first.turn))
    assert new.created


async def test_readers_of_a_dead_replica_do_not_count(scene: Scene) -> None:
    async with living_replica(scene):
        first = await scene.offer(read_by(scene, reader(1)))
        await scene.offer(read_by(scene, DEAD_READER))
        assert await hang_up(scene, first.turn, reader(1)) is TurnLeft.CANCELLED


async def test_reader_that_did_not_hang_up_leaves_the_turn_alone(scene: Scene) -> None:
    first = await scene.offer(read_by(scene, reader(1)))
    left = await scene.store.readers.leave(first.turn, reader(1), tenant=TENANT, hung_up=False)
    assert left is TurnLeft.STAYS
    assert await state_of(scene, first.turn) is TurnState.QUEUED


async def test_turn_goes_on_when_any_of_its_clients_wanted_that(scene: Scene) -> None:
    first, _ = await first_and_repeat(scene, on_disconnect=OnDisconnect.CONTINUE)
    for serial in (2, 1):
        assert await hang_up(scene, first.turn, reader(serial)) is TurnLeft.STAYS
    assert await state_of(scene, first.turn) is TurnState.QUEUED


async def test_vague_repeat_gets_only_a_turn_that_nobody_reads(scene: Scene) -> None:
    """Two people who say the same at once, and one whose connection was cut."""
    first, other = await first_and_repeat(scene, repeats=RepeatOf.LEFT)
    assert other.created
    await scene.store.readers.leave(other.turn, reader(2), tenant=TENANT, hung_up=False)
    retry = await scene.offer(read_by(scene, reader(3), repeats=RepeatOf.LEFT))
    assert (retry.turn, retry.is_joined) == (other.turn, True)
    assert await state_of(scene, first.turn) is TurnState.QUEUED


async def test_vague_repeat_of_a_turn_that_is_over_is_a_new_one(scene: Scene) -> None:
    async with living_replica(scene):
        first = await scene.offer(read_by(scene, reader(1)))
        await hang_up(scene, first.turn, reader(1))
        assert (await scene.offer(read_by(scene, reader(2), repeats=RepeatOf.LEFT))).created


async def test_submit_whose_answer_was_lost_leaves_no_reader(scene: Scene) -> None:
    async with living_replica(scene):
        first = await scene.offer(read_by(scene, reader(1)))
        lost = read_by(scene, reader(2))
        await scene.offer(lost)
        await withdraw(scene, lost)
        assert await state_of(scene, first.turn) is TurnState.QUEUED, "its first client reads on"
        await withdraw(scene, lost)
        assert await hang_up(scene, first.turn, reader(1)) is TurnLeft.CANCELLED


async def test_another_tenants_reader_ends_nothing(scene: Scene) -> None:
    first = await scene.offer(read_by(scene, reader(1)))
    left = await scene.store.readers.leave(first.turn, reader(1), tenant=OTHER_TENANT, hung_up=True)
    assert left is TurnLeft.UNKNOWN
    assert await state_of(scene, first.turn) is TurnState.QUEUED
    gone = await scene.store.readers.leave(TurnId("t"), reader(1), tenant=TENANT, hung_up=True)
    assert gone is TurnLeft.UNKNOWN


async def test_readers_of_a_turn_whose_record_is_gone_go_with_the_next_look(scene: Scene) -> None:
    """They have no lifetime of their own."""
    first = await scene.offer(read_by(scene, reader(1)))
    await scene.redis.delete(scene.keys.turn(first.turn))
    assert await scene.redis.exists(scene.keys.turn_readers(first.turn)) == 1
    assert await scene.store.turns.unclaimed(older_than_ms=0) == []
    assert await scene.redis.exists(scene.keys.turn_readers(first.turn)) == 0


async def test_end_of_a_turn_leaves_the_key_of_a_later_one_its_life(scene: Scene) -> None:
    first = await scene.offer(read_by(scene, reader(1)))
    other = await scene.offer(read_by(scene, reader(2), supersedes=first.turn))
    assert other.turn != first.turn
    await scene.store.turns.cancel(first.turn, tenant=TENANT, reason="stop")
    record, key = scene.keys.turn(other.turn), scene.keys.idempotency(TENANT, "digest")
    assert abs(await scene.redis.pttl(key) - await scene.redis.pttl(record)) < 60_000
    await scene.store.turns.cancel(other.turn, tenant=TENANT, reason="stop")
    assert abs(await scene.redis.pttl(key) - await scene.redis.pttl(record)) < 60_000
    assert await scene.redis.pttl(record) < 2 * 3_600_000
