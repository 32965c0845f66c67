"""Placement: a hint reaches a worker at once and is never lost; waiting for one costs little."""

from __future__ import annotations

import asyncio
import time

import pytest

from infra.runtime.identity import new_turn_id
from infra.store.keys import Keys
from infra.store.placement import queue as queue_module
from infra.store.placement.queue import PlacementWorker, SideClaims
from infra.wire.errors import LeaseHeld, StoreUnavailable
from infra.wire.ids import TurnId, WorkerId
from tests.contract.store.running import running, until
from tests.contract.store.scene import W1, W2, C, Scene, scene_at
from tests.fakes.redis_proxy import redis_proxy
from tests.fakes.redis_server import real_redis


class Desk:
    """A worker that notes what it claims, and how much room it has."""

    def __init__(self, scene: Scene, worker: WorkerId = W1, *, room: int = 1000) -> None:
        self.claimed: list[TurnId] = []
        self.claimed_at: dict[TurnId, float] = {}
        self.room = room
        self.placement = PlacementWorker(
            scene.redis, scene.keys, worker, claim=self._claim, has_room=lambda: self.room > 0
        )

    async def _claim(self, turn: TurnId) -> None:
        self.room -= 1
        self.claimed_at[turn] = time.perf_counter()
        self.claimed.append(turn)

    async def has(self, *turns: TurnId) -> None:
        await until(lambda: set(turns) <= set(self.claimed))


async def test_a_hint_without_an_owner_reaches_a_worker(scene: Scene) -> None:
    desk, turn = Desk(scene), new_turn_id()
    async with running(desk.placement.run()):
        await scene.store.queue.enqueue(turn, None)
        await desk.has(turn)


async def test_a_hint_for_an_owner_reaches_that_one(scene: Scene) -> None:
    one, two, turn = Desk(scene, W1), Desk(scene, W2), new_turn_id()
    async with running(one.placement.run(), two.placement.run()):
        await scene.store.queue.enqueue(turn, W2)
        await two.has(turn)
    assert one.claimed == []


async def test_hints_given_before_a_worker_came_are_found(scene: Scene) -> None:
    desk, turns = Desk(scene), [new_turn_id() for _ in range(30)]
    for turn in turns:
        await scene.store.queue.enqueue(turn, None)
    async with running(desk.placement.run()):
        await desk.has(*turns)
    assert len(desk.claimed) == 30


async def test_a_repeated_hint_is_never_lost(scene: Scene) -> None:
    desk, turn = Desk(scene), new_turn_id()
    async with running(desk.placement.run()):
        for _ in range(5):
            await scene.store.queue.enqueue(turn, W1)
        await until(lambda: desk.claimed == [turn] * 5)


async def test_hints_of_what_nobody_has_room_for_do_not_pile_up(scene: Scene) -> None:
    """The sweeps hint again and again: 850 jobs lay in the queue for 200 turns that waited."""
    turns = [new_turn_id() for _ in range(3)]
    for _ in range(5):
        for turn in turns:
            await scene.store.queue.enqueue(turn, None)

    assert await scene.redis.zcard(scene.keys.place_queue()) == 3
    desk = Desk(scene)
    async with running(desk.placement.run()):
        await desk.has(*turns)
    assert len(desk.claimed) == 3


async def test_each_hint_goes_to_one_worker(scene: Scene) -> None:
    desks = [Desk(scene, W1), Desk(scene, W2)]
    turns = [new_turn_id() for _ in range(40)]
    async with running(*(desk.placement.run() for desk in desks)):
        for turn in turns:
            await scene.store.queue.enqueue(turn, None)
        await until(lambda: sum(len(desk.claimed) for desk in desks) >= 40)
    assert sorted(desks[0].claimed + desks[1].claimed) == sorted(turns)


async def test_a_full_worker_leaves_the_shared_queue_alone_but_serves_its_own(
    scene: Scene,
) -> None:
    desk = Desk(scene, room=0)
    shared, own = new_turn_id(), new_turn_id()
    async with running(desk.placement.run()):
        await scene.store.queue.enqueue(shared, None)
        await scene.store.queue.enqueue(own, W1)
        await desk.has(own)
        assert desk.claimed == [own]

        desk.room = 1
        desk.placement.wake()
        await desk.has(shared)


async def test_a_claim_that_fails_costs_only_its_hint(scene: Scene) -> None:
    bad, good = new_turn_id(), new_turn_id()
    done = asyncio.Event()

    async def claim(turn: TurnId) -> None:
        if turn == bad:
            raise LeaseHeld(C, W2)
        done.set()

    placement = PlacementWorker(scene.redis, scene.keys, W1, claim=claim, has_room=lambda: True)
    async with running(placement.run()):
        await scene.store.queue.enqueue(bad, None)
        await scene.store.queue.enqueue(good, None)
        async with asyncio.timeout(20):
            await done.wait()


async def test_a_job_is_json_and_names_nothing_but_its_turn(scene: Scene) -> None:
    turn = new_turn_id()
    await scene.store.queue.enqueue(turn, None)

    [name] = [key async for key in scene.redis.scan_iter(f"arq:job:{turn}*")]
    job = await scene.redis.get(name)

    assert job is not None
    assert job.startswith(b'{"t":null,"f":"claim","a":["%s"],"k":{},"et":' % turn.encode())
    assert await scene.redis.pttl(name) > 0
    for queue_key in (scene.keys.place_queue(), scene.keys.bell(scene.keys.place_queue())):
        assert await scene.redis.pttl(queue_key) > 0


async def test_a_served_hint_leaves_nothing_behind(scene: Scene) -> None:
    desk, turn = Desk(scene), new_turn_id()
    async with running(desk.placement.run()):
        await scene.store.queue.enqueue(turn, None)
        await desk.has(turn)
        await until(lambda: _is_clean(scene, turn))


async def _is_clean(scene: Scene, turn: TurnId) -> bool:
    left = [key async for key in scene.redis.scan_iter(f"arq:*{turn}*")]
    return not left and not await scene.redis.zcard(scene.keys.place_queue())


async def test_enqueueing_without_redis_says_so(keys: Keys) -> None:
    async with scene_at("unix:///nonexistent/redis.sock", keys) as scene:
        with pytest.raises(StoreUnavailable):
            await scene.store.queue.enqueue(new_turn_id(), None)


# On the real one only


@pytest.mark.redis
async def test_a_worker_serves_on_after_redis_was_restarted(keys: Keys) -> None:
    async with real_redis() as server, scene_at(server.url, keys) as scene:
        desk, before, after = Desk(scene), new_turn_id(), new_turn_id()
        async with running(desk.placement.run()):
            await scene.store.queue.enqueue(before, None)
            await desk.has(before)
            await server.stop()
            await asyncio.sleep(0.5)  # Long enough for several attempts to fail.
            await server.start()
            for owner in (None, W1):
                await scene.store.queue.enqueue(after, owner)
            await until(lambda: desk.claimed.count(after) == 2)


@pytest.mark.redis
async def test_a_worker_serves_on_after_redis_was_a_black_hole(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_module, "SCAN_EVERY_S", 0.5)
    async with real_redis() as server, scene_at(server.url, keys, timeout_s=0.5) as scene:
        desk, turn = Desk(scene), new_turn_id()
        async with running(desk.placement.run()):
            await scene.store.ping()
            server.freeze()
            with pytest.raises(StoreUnavailable):
                await scene.store.ping()
            await asyncio.sleep(1.5)  # Past the read deadline of the blocked connection.
            server.thaw()
            await scene.store.queue.enqueue(turn, None)
            await desk.has(turn)


@pytest.mark.redis
async def test_faults_do_not_use_up_the_places_for_claims(real_scene: Scene) -> None:
    """arq's counter leaks a place with each fault between taking it and starting the job."""
    desk = Desk(real_scene)
    async with running(desk.placement.run()):
        for _ in range(12):
            turn = new_turn_id()
            await real_scene.store.queue.enqueue(turn, None)
            await real_scene.redis.execute_command("CLIENT", "KILL", "TYPE", "normal")  # type: ignore[no-untyped-call]
        last = new_turn_id()
        await real_scene.store.queue.enqueue(last, None)
        await desk.has(last)


@pytest.mark.redis
async def test_an_idle_worker_costs_at_most_four_commands_a_second(keys: Keys) -> None:
    async with real_redis() as server, scene_at(server.url, keys) as scene:
        desk, turn = Desk(scene), new_turn_id()
        async with running(desk.placement.run()):
            await scene.store.queue.enqueue(turn, None)
            await desk.has(turn)
            before = await _commands(scene)
            await asyncio.sleep(5)
            spent = await _commands(scene) - before - 1
        assert spent / 5 <= 4


@pytest.mark.redis
async def test_a_hint_starts_its_claim_without_waiting_for_a_poll(real_scene: Scene) -> None:
    """Typically 2-3 ms; arq's poll takes 373 ms. The bound leaves room for a busy machine."""
    desk, delays = Desk(real_scene), []
    async with running(desk.placement.run()):
        for _ in range(40):
            turn = new_turn_id()
            asked = time.perf_counter()
            await real_scene.store.queue.enqueue(turn, None)
            await desk.has(turn)
            delays.append(desk.claimed_at[turn] - asked)
    assert sorted(delays)[len(delays) // 2] < 0.05


async def _commands(scene: Scene) -> int:
    return int((await scene.redis.info("stats"))["total_commands_processed"])


async def test_a_side_hint_reaches_a_worker_that_has_no_room_for_conversations(
    scene: Scene,
) -> None:
    desk = SideDesk(scene)
    turn = new_turn_id()
    async with running(desk.placement.run()):
        await scene.store.queue.enqueue_side(turn)
        await until(lambda: desk.claimed == [turn])


async def test_a_full_side_lane_leaves_its_hints_to_other_workers(scene: Scene) -> None:
    full, free = SideDesk(scene, W1, room=0), SideDesk(scene, W2)
    turns = [new_turn_id() for _ in range(5)]
    async with running(full.placement.run(), free.placement.run()):
        for turn in turns:
            await scene.store.queue.enqueue_side(turn)
        await until(lambda: sorted(free.claimed) == sorted(turns))
    assert full.claimed == []


class SideDesk:
    """A worker that has no slot and serves the side lane."""

    def __init__(self, scene: Scene, worker: WorkerId = W1, *, room: int = 1000) -> None:
        self.claimed: list[TurnId] = []
        self.placement = PlacementWorker(
            scene.redis,
            scene.keys,
            worker,
            claim=_never,
            has_room=lambda: False,
            side=SideClaims(self._claim, lambda: room > 0),
        )

    async def _claim(self, turn: TurnId) -> None:
        self.claimed.append(turn)


async def _never(turn: TurnId) -> None:
    raise AssertionError(f"{turn} was offered as a conversation's")


@pytest.mark.redis
async def test_a_pipeline_whose_tidying_up_is_cancelled_leaves_no_connection_behind(
    keys: Keys,
) -> None:
    """arq gives a job up that another worker has, and is cancelled in the middle of the UNWATCH."""
    async with (
        real_redis() as server,
        redis_proxy(server.url) as proxy,
        scene_at(proxy.url, keys) as scene,
    ):
        client = queue_module._TidyArqRedis(scene.redis.connection_pool)
        pipe = client.pipeline(transaction=True)
        await pipe.watch("anything")
        proxy.black_hole()
        async with asyncio.TaskGroup() as group:
            tidying = group.create_task(pipe.reset())  # type: ignore[no-untyped-call]
            await asyncio.sleep(0.05)
            tidying.cancel()
        proxy.heal()

        pool = client.connection_pool
        assert pipe.connection is None
        assert not pool._in_use_connections
        await scene.store.ping()


SKEWS_S = [-3600.0, -0.5, 0.002, 0.5, 3600.0]


@pytest.mark.parametrize("ahead_s", SKEWS_S)
async def test_a_hint_does_not_wait_for_the_clock_of_its_workers_machine(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, ahead_s: float
) -> None:
    """arq starts a job when its worker's clock has passed the enqueuer's: with a worker two
    milliseconds behind, each cold start and each side turn took three to four seconds more."""
    monkeypatch.setattr("arq.worker.timestamp_ms", lambda: _ms(time.time() - ahead_s))
    desk = Desk(scene)
    async with running(desk.placement.run()):
        for _ in range(5):
            turn, began = new_turn_id(), time.perf_counter()
            await scene.store.queue.enqueue(turn, None)
            await desk.has(turn)
            assert desk.claimed_at[turn] - began < queue_module.SCAN_EVERY_S / 4


@pytest.mark.parametrize("ahead_s", SKEWS_S)
async def test_hints_keep_their_order_whatever_the_clocks_of_their_senders_say(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, ahead_s: float
) -> None:
    turns, clock_ns = [new_turn_id() for _ in range(12)], time.time_ns
    for i, turn in enumerate(turns):
        off_ns = int(ahead_s * 1e9) if i % 2 else 0
        monkeypatch.setattr(time, "time_ns", lambda off_ns=off_ns: clock_ns() + off_ns)
        await scene.store.queue.enqueue(turn, None)
    jobs = await scene.redis.zrange(scene.keys.place_queue(), 0, -1)
    assert [job.decode().partition(":")[0] for job in jobs] == turns


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
