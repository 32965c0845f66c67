"""Who is next: tenants in turn, nothing lost, and a position that counts down."""

from __future__ import annotations

import random
from copy import deepcopy
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest

from infra.store.placement.waiting_room import Elsewhere, Taken
from infra.store.turns import turns as turns_module
from infra.wire.ids import ConversationKey, TenantId, TurnId
from infra.wire.states import ConversationState, TurnState
from infra.wire.turns import Lane
from tests.contract.store.placing import A, B, D, Room, conversation_of
from tests.contract.store.scene import DONE, TENANT, W1, W2, C, Scene


@pytest.fixture
def room(scene: Scene) -> Room:
    return Room(scene)


# Who is next


async def test_a_tenant_with_one_turn_is_served_second_at_the_latest(room: Room) -> None:
    for n in range(50):
        await room.wait(A, n)
    alone = await room.wait(B)

    assert alone in [await room.taken(), await room.taken()]


async def test_a_tenant_that_comes_again_is_behind_those_that_wait(room: Room) -> None:
    many = [await room.wait(A, n) for n in range(4)]
    for n in range(4):
        again = await room.wait(B, n)
        assert [await room.taken(), await room.taken()] == [many[n], again]


async def test_three_tenants_are_served_in_strict_turn(room: Room) -> None:
    owners = {await room.wait(tenant, n): tenant for n in range(5) for tenant in (A, B, D)}

    served = [owners[await room.taken()] for _ in range(15)]

    assert served == [A, B, D] * 5
    assert await room.take() is None
    assert await room.is_empty()


async def test_a_tenants_own_turns_keep_their_order(room: Room) -> None:
    turns = []
    for n in range(5):
        turns.append(await room.wait(A, 5 - n))
        created = await room.scene.redis.hget(room.keys.turn(turns[-1]), "created")  # type: ignore[misc]
        assert created is not None
        await room.scene.redis.zadd(
            room.keys.room(A), {conversation_of(A, 5 - n): int(created) + n}
        )

    assert [await room.taken() for _ in turns] == turns


async def test_a_conversation_waits_once_however_many_turns_it_has(room: Room) -> None:
    first, second = await room.wait(A), await room.wait(A)

    assert await room.taken() == first
    assert await room.take() is None
    assert await room.scene.turn_state(second) is TurnState.QUEUED


# What is in the room


async def test_a_turn_of_a_living_owner_never_waits_for_a_worker(room: Room) -> None:
    await room.scene.begin()
    await room.scene.submit()

    assert await room.is_empty()
    assert await room.take() is None


async def test_a_side_turn_never_waits_for_a_worker(room: Room) -> None:
    new = room.scene.new_turn()
    await room.scene.offer(replace(new, request=new.request.model_copy(update={"lane": Lane.SIDE})))
    await room.scene.store.turns.unclaimed(older_than_ms=0)

    assert await room.is_empty()


async def test_a_turn_behind_an_unfinished_one_is_left_to_the_host_of_that(room: Room) -> None:
    await room.scene.begin()
    await room.scene.lapse()
    await room.scene.submit()
    await room.scene.store.turns.unclaimed(older_than_ms=-1)

    assert await room.is_empty()


@pytest.mark.parametrize("how", ["acquire", "cancel", "expire", "stop", "delete"])
async def test_what_ends_or_owns_the_only_turn_takes_its_conversation_out(
    room: Room, how: str
) -> None:
    scene, store = room.scene, room.scene.store
    turn = await scene.submit()
    assert not await room.is_empty()

    match how:
        case "acquire":
            await scene.acquire()
        case "cancel":
            await store.turns.cancel(turn, tenant=TENANT, reason="gone")
        case "expire":
            await store.turns.expire(turn)
        case "stop":
            await store.conversations.stop(C, tenant=TENANT, reason="stop")
        case "delete":
            await store.conversations.delete(C, tenant=TENANT, reason="gone", is_forced=True)

    assert await room.is_empty()


async def test_the_turn_behind_a_cancelled_one_waits_on_since_its_own_time(room: Room) -> None:
    scene = room.scene
    first, second = await scene.submit(), await scene.submit()
    await scene.redis.hincrby(scene.keys.turn(first), "created", -5000)  # type: ignore[misc]
    await scene.store.turns.unclaimed(older_than_ms=-1)
    before = await scene.redis.zscore(scene.keys.room(TENANT), C)

    await scene.store.turns.cancel(first, tenant=TENANT, reason="gone")

    after = await scene.redis.zscore(scene.keys.room(TENANT), C)
    assert before is not None
    assert after is not None
    assert after - before >= 5000
    assert await room.taken() == second


async def test_a_claim_of_a_lease_that_was_taken_up_again_takes_its_conversation_out(
    room: Room,
) -> None:
    lease = await room.scene.acquire()
    await room.scene.lapse()
    turn = await room.scene.submit()
    assert not await room.is_empty()

    assert (await room.scene.claim(lease)).record.turn == turn

    assert await room.is_empty()


async def test_an_owner_that_came_back_is_told_of_what_waits(room: Room) -> None:
    lease = await room.scene.acquire(W2)
    await room.scene.lapse()
    turn = await room.scene.submit()
    await room.scene.store.leases.renew([lease])

    assert await room.take(W1) == Elsewhere(W2, turn)
    assert await room.is_empty()


async def test_a_turn_requeued_under_a_lapsed_lease_waits_for_another_worker(room: Room) -> None:
    turn = await room.scene.submit()
    lease = await room.scene.acquire()
    await room.scene.claim(lease)
    await room.scene.lapse()

    assert await room.scene.store.turns.requeue(lease, turn)

    assert await room.taken(W2) == turn


async def test_what_an_owner_leaves_behind_waits_for_another_worker(room: Room) -> None:
    scene = room.scene
    lease, turn = await scene.begin()
    left = await scene.submit()
    await scene.store.turns.finish(lease, turn, 1, DONE, idle_timeout_s=60)

    assert await scene.store.leases.release(lease, ConversationState.COLD) == left

    assert await room.taken(W2) == left


async def test_what_is_stale_is_passed_over(room: Room) -> None:
    redis, keys = room.scene.redis, room.keys
    await redis.zadd(keys.ring(), {A: 1, B: 2})
    await redis.zadd(keys.room(B), {conversation_of(B, 7): 1})
    turn = await room.wait(D)

    assert await room.taken() == turn
    assert await room.is_empty()


# Nothing is lost


async def test_a_taker_that_dies_loses_nothing(room: Room) -> None:
    turn = await room.wait(A)
    assert await room.taken(W1) == turn
    assert await room.take(W2) is None

    [ref] = await room.scene.store.turns.unclaimed(older_than_ms=-1)

    assert (ref.turn, ref.owner) == (turn, None)
    assert await room.taken(W2) == turn


async def test_what_is_put_back_is_next_again(room: Room) -> None:
    first, _ = await room.wait(A, 0), await room.wait(A, 1)
    other = await room.wait(B)
    assert await room.taken() == first

    assert await room.scene.store.room.put_back(first, W1)

    assert [await room.taken(), await room.taken()] == [first, other]


async def test_what_was_owned_meanwhile_is_not_put_back(room: Room) -> None:
    turn = await room.scene.submit()
    await room.taken()
    await room.scene.acquire(W2)

    assert not await room.scene.store.room.put_back(turn, W1)
    assert await room.is_empty()


# Positions


async def test_a_position_counts_turns_of_the_own_conversation_too(room: Room) -> None:
    scene = room.scene
    _, running = await scene.begin()
    second, third = await scene.submit(), await scene.submit()

    assert await scene.store.turns.position(running) is None
    assert await scene.store.turns.position(second) == 1
    assert await scene.store.turns.position(third) == 2
    assert await scene.store.turns.position(TurnId("turn_unknown")) is None


async def test_tenants_beyond_those_looked_at_are_estimated(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenants = [TenantId(f"{n:020x}") for n in range(8)]
    turns = [await room.wait(tenant, n) for n in range(3) for tenant in tenants]
    exact = [await room.scene.store.turns.position(turn) for turn in turns]
    monkeypatch.setattr(turns_module, "_TENANTS_LOOKED_AT", 3)

    estimated = [await room.scene.store.turns.position(turn) for turn in turns]

    assert exact == list(range(24))
    assert estimated == exact


@dataclass
class Model:
    """The waiting room as its rules say, in plain lists."""

    ring: list[TenantId] = field(default_factory=list)
    rooms: dict[TenantId, list[tuple[int, ConversationKey]]] = field(default_factory=dict)
    fifos: dict[ConversationKey, list[TurnId]] = field(default_factory=dict)

    def enter(self, tenant: TenantId, c: ConversationKey, turn: TurnId, created: int) -> None:
        if not self.fifos.setdefault(c, []):
            self.rooms.setdefault(tenant, []).append((created, c))
            self.rooms[tenant].sort()
        self.fifos[c].append(turn)
        if tenant not in self.ring:
            self.ring.append(tenant)

    def take(self) -> TurnId | None:
        """The next turn; its conversation leaves the room with all its turns."""
        if not self.ring:
            return None
        tenant = self.ring.pop(0)
        _, c = self.rooms[tenant].pop(0)
        if self.rooms[tenant]:
            self.ring.append(tenant)
        return self.fifos.pop(c)[0]

    def positions(self) -> dict[TurnId, int]:
        """What each turn's position must be: the takes until its conversation's, then its FIFO."""
        ahead, taken = deepcopy(self), 0
        found: dict[TurnId, int] = {}
        while ahead.ring:
            fifo = ahead.fifos[ahead.rooms[ahead.ring[0]][0][1]]
            found |= {turn: taken + place for place, turn in enumerate(fifo)}
            ahead.take()
            taken += 1
        return found


@pytest.mark.parametrize("seed", range(4))
async def test_positions_count_down_exactly_as_turns_are_taken(
    fake_scene: Scene, seed: int
) -> None:
    """Turns come and are taken by chance; each position is checked against the model's."""
    chance, room, model, n = random.Random(seed), Room(fake_scene), Model(), 0
    tenants = [TenantId(f"{i:020x}") for i in range(chance.randint(2, 6))]
    for _ in range(30):
        tenant = chance.choice(tenants[: chance.randint(1, len(tenants))])
        if chance.random() < 0.3:
            before = model.positions()
            taken = model.take()
            given = await room.take()
            assert (given.turn if isinstance(given, Taken) else None) == taken
            after = model.positions()
            heads = [fifo[0] for fifo in model.fifos.values()]
            assert all(after[turn] == before[turn] - 1 for turn in heads)
        else:
            again = chance.random() < 0.3 and model.rooms.get(tenant)
            c = chance.choice(again)[1] if again else conversation_of(tenant, n := n + 1)
            turn = (await fake_scene.offer(fake_scene.new_turn(c, tenant=tenant))).turn
            record = await fake_scene.store.turns.get(turn)
            assert record is not None
            model.enter(tenant, c, turn, record.created_ms)
        for turn, position in model.positions().items():
            assert await fake_scene.store.turns.position(turn) == position


async def test_ring_places_grow_even_within_one_millisecond(room: Room) -> None:
    for tenant in (A, B, D):
        for n in range(3):
            await room.wait(tenant, n)
    for _ in range(6):
        await room.taken()

    ring = await room.scene.redis.zrange(room.keys.ring(), 0, -1, withscores=True)

    assert all(earlier < later for (_, earlier), (_, later) in pairwise(ring))


# Giving way


async def given_way(room: Room, *, waited_s: float = 0.0, giving_way: int = 0) -> bool:
    c = conversation_of(A, 0)
    return await room.scene.store.room.gives_way(c, waited_s=waited_s, giving_way=giving_way)


async def test_a_conversation_gives_way_to_so_many_other_tenants_as_wait(room: Room) -> None:
    await room.wait(A, 0)
    await room.taken()
    await room.wait(A, 1)
    assert not await given_way(room), "nobody else waits"

    await room.wait(B)
    await room.wait(D)

    assert await given_way(room)
    assert await given_way(room, giving_way=1)
    assert not await given_way(room, giving_way=2)
    assert not await given_way(room, waited_s=60.0), "they may be placed yet"


async def test_a_conversation_gives_way_before_its_next_turn_comes_but_not_while_one_runs(
    room: Room,
) -> None:
    """It was told to stay, and took the turn that came between that answer and its claim."""
    scene = room.scene
    gives_way = scene.store.room.gives_way
    lease, turn = await scene.begin()
    await room.wait(B)
    assert not await gives_way(lease.conversation, waited_s=0.0, giving_way=0), "a turn runs"

    await scene.store.turns.finish(lease, turn, 1, DONE, idle_timeout_s=60)

    assert await gives_way(lease.conversation, waited_s=0.0, giving_way=0)


async def test_a_tenant_served_past_the_room_is_served_after_those_that_wait(room: Room) -> None:
    await room.wait(A, 0)
    again, other = await room.wait(A, 1), await room.wait(B)
    await room.taken()
    await room.scene.store.room.gives_way(conversation_of(A, 0), waited_s=60.0, giving_way=0)

    assert [await room.taken(), await room.taken()] == [other, again]
