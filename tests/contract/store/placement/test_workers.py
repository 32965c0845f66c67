"""The registry of workers, what one is told, and what is remembered of keys."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace

import pytest

from infra.store.keys import Keys
from infra.store.placement.workers import Resubscribed, WorkerRecord
from infra.wire.control import CancelTurn, DrainWorker
from infra.wire.ids import WorkerId
from infra.wire.states import WorkerState
from tests.contract.store.running import until
from tests.contract.store.scene import (
    HOST_A,
    HOST_B,
    OTHER_TENANT,
    TENANT,
    W1,
    W2,
    W3,
    C,
    Scene,
    scene_at,
)
from tests.fakes.redis_proxy import redis_proxy
from tests.fakes.redis_server import real_redis


def a_worker(worker: WorkerId, *, used: int = 0) -> WorkerRecord:
    return WorkerRecord(
        worker=worker,
        host=HOST_A,
        pid=42,
        version="0.1.0",
        slots=8,
        used=used,
        state=WorkerState.READY,
        started_ms=1_700_000_000_000,
    )


async def test_an_inventory_replaces_the_one_before_and_lapses(scene: Scene) -> None:
    workers, key = scene.store.workers, scene.keys.host_containers(HOST_A)
    await workers.take_inventory(HOST_A, {"box-1": C, "box-2": C})
    await workers.take_inventory(HOST_A, {"box-3": C})
    assert await scene.redis.hgetall(key) == {b"box-3": C.encode()}  # type: ignore[misc]
    assert 50_000 < await scene.redis.pttl(key) <= 60_000
    await workers.take_inventory(HOST_A, {})
    assert not await scene.redis.exists(key)


async def test_a_worker_lives_as_long_as_it_beats(scene: Scene) -> None:
    workers = scene.store.workers
    await workers.beat(a_worker(W1))
    await workers.beat(a_worker(W2))
    await workers.beat(a_worker(W1, used=3))

    assert sorted(await workers.alive(), key=lambda w: w.worker) == [
        a_worker(W1, used=3),
        a_worker(W2),
    ]
    assert 10_000 < await scene.redis.pttl(scene.keys.worker(W1)) <= 15_000

    await scene.redis.zadd(scene.keys.workers(), {W1: 1})
    assert await workers.alive() == [a_worker(W2)]


async def test_the_workers_of_a_host_are_found_without_the_others(scene: Scene) -> None:
    workers = scene.store.workers
    await workers.beat(a_worker(W1))
    await workers.beat(replace(a_worker(W3), host=HOST_B))

    assert await workers.of_host(HOST_A) == [a_worker(W1)]
    assert await workers.living({W1, W2}) == {W1}

    await scene.redis.zadd(scene.keys.host_workers(HOST_A), {W1: 1})
    assert await workers.of_host(HOST_A) == []


async def test_a_worker_that_leaves_is_gone_at_once(scene: Scene) -> None:
    await scene.store.workers.beat(a_worker(W1))

    await scene.store.workers.leave(W1)

    assert await scene.store.workers.alive() == []
    assert await scene.store.workers.of_host(HOST_A) == []
    assert not await scene.redis.exists(scene.keys.worker(W1))


async def test_a_worker_hears_what_it_is_told_and_skips_what_it_does_not_know(
    scene: Scene,
) -> None:
    cancel = CancelTurn(turn=(await scene.submit()), conversation=C, reason="client gone")
    channel = scene.keys.control_channel(W1)

    async def is_heard() -> bool:
        return bool(await scene.redis.publish(channel, b'{"type":"from the future"}'))

    async def tell() -> None:
        await until(is_heard)
        for message in (b"not json", cancel.encode(), DrainWorker().encode()):
            await scene.redis.publish(channel, message)

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(tell())
        async with aclosing(scene.store.workers.control(W1)) as orders:
            assert await anext(orders) == cancel
            assert await anext(orders) == DrainWorker()


@pytest.mark.redis
async def test_a_worker_learns_that_it_may_have_missed_something(keys: Keys) -> None:
    async with (
        real_redis() as server,
        redis_proxy(server.url) as proxy,
        scene_at(proxy.url, keys) as scene,
    ):
        channel = scene.keys.control_channel(W1)

        async def cut_after_the_first_word() -> None:
            async def is_heard() -> bool:
                return bool(await scene.redis.publish(channel, DrainWorker().encode()))

            await until(is_heard)
            proxy.cut()

        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            group.create_task(cut_after_the_first_word())
            async with aclosing(scene.store.workers.control(W1)) as orders:
                assert await anext(orders) == DrainWorker(), "the first subscription is no news"
                assert await anext(orders) == Resubscribed()


async def test_a_verdict_on_a_key_is_remembered_for_its_time(scene: Scene) -> None:
    verdicts = scene.store.key_verdicts
    assert await verdicts.get(TENANT) is None

    await verdicts.put(TENANT, True, ttl_s=300)
    await verdicts.put(OTHER_TENANT, False, ttl_s=60)

    assert await verdicts.get(TENANT) is True
    assert await verdicts.get(OTHER_TENANT) is False
    assert 250_000 < await scene.redis.pttl(scene.keys.key_verdict(TENANT)) <= 300_000
