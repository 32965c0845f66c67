"""Redis forgets its scripts, restarts, freezes, fills up, cuts connections: what callers see."""

from __future__ import annotations

import asyncio
import time

import pytest

from infra.runtime.identity import new_turn_id
from infra.store.keys import Keys
from infra.wire.errors import StoreUnavailable, TurnNotFound
from infra.wire.states import ConversationState, TurnState
from tests.contract.store.placement.test_workers import a_worker
from tests.contract.store.scene import (
    CANCELLED,
    DONE,
    TENANT,
    W1,
    W2,
    C,
    Scene,
    scene_at,
    text_events,
)
from tests.fakes.redis_server import real_redis


async def test_scripts_that_redis_forgot_are_given_again(scene: Scene) -> None:
    await scene.begin()
    await scene.redis.script_flush()

    lease = await scene.acquire()
    assert (await scene.claim(lease)).is_adoption


@pytest.mark.redis
async def test_the_store_goes_on_after_a_restart_that_kept_the_data(keys: Keys) -> None:
    async with real_redis(append_only=True) as server, scene_at(server.url, keys) as scene:
        lease, turn = await scene.begin()
        await server.restart()

        await scene.store.log.append(lease, turn, text_events(1, 2))
        assert not (await scene.store.leases.renew([lease])).lost
        assert not await scene.store.turns.finish(lease, turn, 3, DONE, idle_timeout_s=60)


@pytest.mark.redis
async def test_after_redis_lost_everything_old_leases_are_lost_and_new_turns_work(
    keys: Keys,
) -> None:
    async with real_redis() as server, scene_at(server.url, keys) as scene:
        lease, turn = await scene.begin()
        await server.restart()

        assert (await scene.store.leases.renew([lease])).lost == {C}
        with pytest.raises(TurnNotFound):
            await scene.store.turns.cancel(turn, tenant=TENANT, reason="gone")
        assert (await scene.store.log.read(turn, after=0)).state is None

        again = await scene.acquire(W1)
        assert again.fence > lease.fence
        await scene.submit()
        assert (await scene.claim(again)).record.attempt == 1


@pytest.mark.redis
async def test_a_redis_that_is_away_is_unavailable_at_once(keys: Keys) -> None:
    async with real_redis() as server, scene_at(server.url, keys) as scene:
        await scene.store.ping()
        await server.stop()
        started = time.monotonic()

        with pytest.raises(StoreUnavailable):
            await scene.submit()
        with pytest.raises(StoreUnavailable):
            await scene.store.log.read(new_turn_id(), after=0)

        assert time.monotonic() - started < 5


@pytest.mark.redis
async def test_a_frozen_redis_is_unavailable_within_the_deadline(keys: Keys) -> None:
    async with real_redis() as server, scene_at(server.url, keys, timeout_s=0.5) as scene:
        await scene.store.ping()
        server.freeze()
        started = time.monotonic()

        with pytest.raises(StoreUnavailable):
            await scene.submit()

        assert 0.4 < time.monotonic() - started < 5
        server.thaw()
        await scene.submit()


@pytest.mark.redis
async def test_a_connection_that_died_in_the_pool_costs_nobody_an_error(real_scene: Scene) -> None:
    await real_scene.store.ping()
    for _ in range(5):
        await real_scene.redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "no")  # type: ignore[no-untyped-call]
        await real_scene.submit()


@pytest.mark.redis
async def test_a_full_redis_refuses_new_turns_whole_and_lets_running_ones_end(keys: Keys) -> None:
    async with real_redis() as server, scene_at(server.url, keys) as scene:
        lease, turn = await scene.begin()
        waiting = await scene.submit()
        await scene.redis.config_set("maxmemory", "1")
        size = await scene.redis.dbsize()

        with pytest.raises(StoreUnavailable):
            await scene.submit()
        with pytest.raises(StoreUnavailable):
            await scene.store.log.append(lease, turn, text_events(1, 1))
        assert await scene.redis.dbsize() == size, "something of a refused turn was kept"
        assert await scene.redis.llen(scene.keys.todo(C)) == 1  # type: ignore[misc]

        # Everything that keeps ownership alive or gives memory back goes through.
        await scene.store.workers.beat(a_worker(W1))
        assert not (await scene.store.leases.renew([lease])).lost
        await scene.lapse()
        successor = await scene.acquire(W2)
        assert (await scene.claim(successor)).record.turn == turn
        await scene.store.turns.cancel(waiting, tenant=TENANT, reason="client gone")
        await scene.store.turns.finish(successor, turn, 1, CANCELLED, idle_timeout_s=0)
        assert await scene.store.conversations.reap(C, W2)
        await scene.store.leases.release(successor, ConversationState.COLD)
        assert await scene.turn_state(turn) is TurnState.CANCELLED


@pytest.mark.redis
async def test_a_redis_that_would_evict_leases_is_refused(keys: Keys) -> None:
    async with (
        real_redis(options=("--maxmemory-policy", "allkeys-lru")) as server,
        scene_at(server.url, keys) as scene,
    ):
        with pytest.raises(StoreUnavailable, match="noeviction"):
            await scene.store.check()
        await scene.redis.config_set("maxmemory-policy", "noeviction")
        await scene.store.check()


async def test_a_cancelled_caller_is_cancelled_whatever_its_command_was_doing(
    scene: Scene,
) -> None:
    """redis-py's own sending swallows a cancellation that comes just as it is done."""

    async def ask_for_ever() -> None:
        while True:
            await scene.redis.ping()

    for passes in range(60):
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            task = group.create_task(ask_for_ever())
            for _ in range(passes):
                await asyncio.sleep(0)
            task.cancel()
        assert task.cancelled()


async def test_answers_go_to_who_asked_also_when_others_are_cancelled(scene: Scene) -> None:
    for i in range(40):
        await scene.redis.set(f"{scene.keys.prefix}:{i}", i)

    async def ask(i: int) -> None:
        for _ in range(5):
            assert await scene.redis.get(f"{scene.keys.prefix}:{i}") == str(i).encode()

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        tasks = [group.create_task(ask(i)) for i in range(40)]
        for passes, task in enumerate(tasks[::3]):
            for _ in range(passes):
                await asyncio.sleep(0)
            task.cancel()
