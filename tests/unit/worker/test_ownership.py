"""Leases: renewed together, fenced by the local clock, lost for good."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from infra.store.conversations.leases import Lease, Renewal
from infra.wire.errors import LeaseHeld, LeaseLost, StoreUnavailable
from infra.wire.ids import ConversationKey, Fence, HostId, TurnId, WorkerId
from infra.wire.states import ConversationState
from tests.fakes.manual_clock import ManualClock, settle
from worker.ownership import Ownership

C, D = ConversationKey("c" * 24), ConversationKey("d" * 24)
ME, HOST = WorkerId("host-1-a"), HostId("host-1")


class LeasesOfPaper:
    """The lease script's answers, as a test wants them."""

    def __init__(self) -> None:
        self.is_away = False
        self.lost: set[ConversationKey] = set()
        self.cancelled: dict[ConversationKey, tuple[TurnId, str]] = {}
        self.rounds: list[list[ConversationKey]] = []
        self.released: list[ConversationKey] = []

    async def acquire(
        self, c: ConversationKey, worker: WorkerId, host: HostId, *, above: Fence
    ) -> Lease:
        if c in self.lost:
            raise LeaseHeld(c, "other")
        return Lease(c, worker, Fence(max(7, above + 1)))

    async def renew(self, leases: list[Lease]) -> Renewal:
        self.rounds.append([lease.conversation for lease in leases])
        if self.is_away:
            raise StoreUnavailable("away")
        return Renewal(frozenset(self.lost), dict(self.cancelled))

    async def release(
        self, lease: Lease, state: ConversationState, *, runs: TurnId | None = None
    ) -> None:
        self.released.append(lease.conversation)


class Scene:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.leases = LeasesOfPaper()
        self.told: list[tuple[ConversationKey, TurnId, str]] = []
        self.ownership = Ownership(
            self.leases,  # type: ignore[arg-type]
            self.clock,
            worker=ME,
            host=HOST,
            on_cancelled=lambda c, turn, reason: self.told.append((c, turn, reason)),
        )


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    scene = Scene()
    async with asyncio.TaskGroup() as group:
        renewing = group.create_task(scene.ownership.run())
        yield scene
        renewing.cancel()


async def test_all_leases_are_renewed_in_one_round_every_five_seconds(scene: Scene) -> None:
    await scene.ownership.acquire(C)
    await scene.ownership.acquire(D)
    await scene.clock.advance(15.5)
    assert scene.leases.rounds == [[C, D]] * 3


async def test_without_leases_redis_is_not_asked(scene: Scene) -> None:
    await scene.clock.advance(60)
    assert scene.leases.rounds == []


async def test_ten_seconds_without_success_stop_publishing_until_the_next_success(
    scene: Scene,
) -> None:
    held = await scene.ownership.acquire(C)
    scene.leases.is_away = True
    await scene.clock.advance(9.9)
    assert held.may_publish()
    await scene.clock.advance(0.2)
    assert not held.may_publish()

    scene.leases.is_away = False
    await scene.clock.advance(1.1)

    assert held.may_publish()
    assert not held.lost.is_set()


async def test_a_process_that_was_frozen_finds_itself_fenced_at_once(scene: Scene) -> None:
    held = await scene.ownership.acquire(C)
    scene.clock.jump(11)
    assert not held.may_publish()


async def test_a_lease_counts_from_the_question_and_not_from_the_answer(scene: Scene) -> None:
    held = await scene.ownership.acquire(C)
    asked_s = scene.clock.monotonic()
    scene.clock.jump(4)
    held.confirm(asked_s)
    scene.clock.jump(6)
    assert not held.may_publish()


async def test_a_lost_lease_is_told_and_never_renewed_again(scene: Scene) -> None:
    held, other = await scene.ownership.acquire(C), await scene.ownership.acquire(D)
    scene.leases.lost.add(C)
    await scene.clock.advance(10.5)
    assert held.lost.is_set()
    assert not held.may_publish()
    assert other.may_publish()
    assert scene.leases.rounds == [[C, D], [D]]


async def test_a_released_lease_is_not_a_lost_one(scene: Scene) -> None:
    held = await scene.ownership.acquire(C)
    await scene.ownership.release(held, ConversationState.COLD)
    assert not held.may_publish()
    assert not held.lost.is_set()
    assert len(scene.ownership) == 0
    assert scene.leases.released == [C]


async def test_cancelled_turns_are_told_with_the_renewal(scene: Scene) -> None:
    await scene.ownership.acquire(C)
    scene.leases.cancelled[C] = (TurnId("turn_1"), "client_gone")
    await scene.clock.advance(5.1)
    assert scene.told == [(C, "turn_1", "client_gone")]


async def test_while_redis_is_away_it_is_asked_every_second(scene: Scene) -> None:
    await scene.ownership.acquire(C)
    scene.leases.is_away = True
    await scene.clock.advance(8.5)
    assert len(scene.leases.rounds) == 4


async def test_nothing_is_started_until_a_lease_is_confirmed_again(scene: Scene) -> None:
    held = await scene.ownership.acquire(C)
    await held.until_sure()
    scene.clock.jump(11)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(held.until_sure())
        await settle()
        assert not waiting.done()

        held.confirm(scene.clock.monotonic())


async def test_who_waits_to_be_sure_hears_of_the_loss(scene: Scene) -> None:
    held = await scene.ownership.acquire(C)
    scene.clock.jump(11)
    scene.leases.lost.add(C)
    with pytest.raises(LeaseLost):
        async with asyncio.timeout(5):
            await asyncio.gather(held.until_sure(), scene.ownership.renew())


async def test_redis_is_asked_before_what_cannot_be_taken_back_when_a_round_is_late() -> None:
    scene = Scene()
    held = await scene.ownership.acquire(C)
    await scene.clock.advance(5.5)
    await scene.ownership.make_sure(held)
    assert scene.leases.rounds == [], "the last confirmation is no older than usual"

    await scene.clock.advance(1.0)
    await scene.ownership.make_sure(held)
    assert scene.leases.rounds == [[C]]
    assert held.unconfirmed_s == 0

    await scene.clock.advance(7.0)
    scene.leases.lost = {C}
    with pytest.raises(LeaseLost):
        await scene.ownership.make_sure(held)


async def test_a_late_round_that_redis_does_not_answer_leaves_it_to_the_clock() -> None:
    scene = Scene()
    held = await scene.ownership.acquire(C)
    scene.leases.is_away = True
    await scene.clock.advance(9.0)
    await scene.ownership.make_sure(held)
    await scene.clock.advance(2.0)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(scene.ownership.make_sure(held))
        await settle()
        assert not waiting.done()
        scene.leases.is_away = False
        await scene.ownership.renew()


async def test_each_lease_has_a_newer_fence_than_the_last_whatever_redis_knows() -> None:
    scene = Scene()
    first = await scene.ownership.acquire(C)
    second = await scene.ownership.acquire(D)
    assert second.fence > first.fence
    assert (await scene.ownership.acquire(C)).fence > second.fence
