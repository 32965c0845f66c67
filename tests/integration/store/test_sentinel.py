"""Real Sentinels, and a primary that dies or hangs: everything finds the new one by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from infra.runtime.identity import new_turn_id
from infra.store.conversations.leases import Lease
from infra.store.keys import Keys
from infra.store.open import Store, store_on
from infra.store.server.connection import connect
from infra.wire.errors import LeaseLost, StoreUnavailable, TurnLogTorn, TurnNotFound
from infra.wire.ids import ReplicaId, TurnId
from tests.contract.store.running import running, until
from tests.contract.store.scene import OTHER_C, TENANT, W1, W2, Scene, scene_at, text_events
from tests.fakes.redis_sentinel import SentinelCluster, sentinels

pytestmark = [pytest.mark.redis, pytest.mark.timeout(180)]

RECOVERED_S = 20.0
W = W1
REPLICA = ReplicaId("api-1")


@asynccontextmanager
async def store_of(cluster: SentinelCluster) -> AsyncIterator[Store]:
    client = connect(cluster.url, timeout_s=2, name="test")
    try:
        yield store_on(client, Keys("test"))
    finally:
        await client.aclose()


@pytest.fixture
async def cluster() -> AsyncIterator[SentinelCluster]:
    async with sentinels() as cluster:
        yield cluster


async def insist(call: Callable[[], Awaitable[object]]) -> float:
    """Until it works again; how long that took. No try may hang."""
    began = time.monotonic()
    while True:
        try:
            async with asyncio.timeout(8):
                await call()
            return time.monotonic() - began
        except StoreUnavailable:
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("trouble", ["killed", "frozen"])
async def test_pools_bells_and_subscriptions_find_the_new_primary(
    cluster: SentinelCluster, trouble: str
) -> None:
    claimed: list[TurnId] = []

    async def claim(turn: TurnId) -> None:
        claimed.append(turn)

    async with store_of(cluster) as store:
        subscriber = store.subscriber(REPLICA)
        publisher = store.publisher()
        placement = store.placement(W, claim=claim, has_room=lambda: True)
        async with running(subscriber.run(), publisher.run(), placement.run()):
            await subscriber.subscribed.wait()
            first = new_turn_id()
            await store.queue.enqueue(first, None)
            await until(lambda: claimed == [first])

            # Connections that sit idle in the pool, to the old primary.
            await asyncio.gather(*(store.ping() for _ in range(20)))
            old = await cluster.kill_primary() if trouble == "killed" else cluster.freeze_primary()
            await cluster.failed_over()

            second = new_turn_id()
            took_s = await insist(lambda: store.queue.enqueue(second, None))
            await until(lambda: claimed == [first, second])
            with subscriber.attach(second) as mailbox:
                async with asyncio.timeout(RECOVERED_S):
                    while not mailbox.take():
                        publisher.publish(REPLICA, b"%b 1 1 {}" % second.encode())
                        await mailbox.wait(0.2)
            assert took_s < RECOVERED_S

            # The old one comes back and takes itself for the primary: nobody believes it.
            if trouble == "frozen":
                cluster.thaw(old)
            else:
                cluster.revive(old)
            await asyncio.gather(*(store.redis.set(f"test:{i}", i) for i in range(30)))
            async with cluster.client(cluster.primary) as primary:
                assert await primary.exists(*(f"test:{i}" for i in range(30))) == 30


async def test_what_a_failover_loses_is_refused_and_never_a_silent_gap(
    cluster: SentinelCluster,
) -> None:
    async with scene_at(cluster.url, Keys("test")) as scene:
        lease, turn = await scene.begin()
        await scene.store.log.append(lease, turn, text_events(1, 3))
        await cluster.in_sync()
        await cluster.cut_replica_off()

        await scene.store.log.append(lease, turn, text_events(4, 3))
        lost = await scene.submit(OTHER_C)
        lost_lease = await scene.acquire(W2, OTHER_C)
        await scene.claim(lost_lease)

        await cluster.kill_primary()
        await cluster.failed_over()
        await insist(scene.store.ping)
        await _judge_the_loss(scene, lease, turn, lost, lost_lease)


async def _judge_the_loss(
    scene: Scene, lease: Lease, turn: TurnId, lost: TurnId, lost_lease: Lease
) -> None:
    with pytest.raises(TurnLogTorn) as torn:
        await scene.store.log.append(lease, turn, text_events(7, 1))
    assert torn.value.newest == 3
    assert await scene.store.log.append(lease, turn, text_events(4, 4)) == 7

    # A turn that was accepted and lost: its readers and its owner learn of it.
    assert (await scene.store.log.read(lost, after=0)).state is None
    with pytest.raises(TurnNotFound):
        await scene.store.turns.cancel(lost, tenant=TENANT, reason="gone")
    with pytest.raises(LeaseLost):
        await scene.store.log.append(lost_lease, lost, text_events(1, 1))
    assert (await scene.store.leases.renew([lost_lease])).lost == {OTHER_C}

    # The fence that was lost is never given again, nor one before it.
    assert (await scene.acquire(W1, OTHER_C)).fence > lost_lease.fence
    assert (await scene.store.leases.renew([lease])).lost == frozenset()
