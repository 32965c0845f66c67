"""A cluster on a Redis that is cut off, hung up, filled, forgotten or paused under its streams."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

import pytest
from redis.asyncio import Redis

from infra.runtime.identity import new_turn_id
from infra.store.keys import Keys
from infra.store.open import store_on
from infra.store.server.connection import ESTABLISH_TIMEOUT_S, connect
from infra.wire.errors import StoreUnavailable
from infra.wire.ids import TurnId
from infra.wire.states import TurnState
from tests.contract.store.placement.test_workers import a_worker
from tests.contract.store.running import running, until
from tests.contract.store.scene import DONE, REPLICA, TENANT, W1, C, Scene, scene_at, text_events
from tests.fakes.redis_proxy import RedisProxy, Way, redis_proxy
from tests.fakes.redis_server import RealRedis, real_redis
from tests.fakes.running_api import RunningApi
from tests.fakes.worker_stage import QUICK, Stage
from tests.integration.store.cluster import (
    RECOVERED_S,
    Told,
    cluster_on,
    listen,
    until_a_turn_works,
)

pytestmark = [pytest.mark.redis, pytest.mark.timeout(240)]

TIMEOUT_S = 0.5
SLACK_S = 2.0
LONGER_THAN_EVERY_DEADLINE_S = 6.0


@dataclass
class Scenery:
    server: RealRedis
    proxy: RedisProxy
    direct: Redis
    """Past the proxy."""
    api: RunningApi
    stage: Stage


@asynccontextmanager
async def scenery() -> AsyncIterator[Scenery]:
    """A cluster behind a proxy."""
    async with AsyncExitStack() as held:
        server = await held.enter_async_context(real_redis())
        proxy = await held.enter_async_context(redis_proxy(server.url))
        direct = connect(server.url, timeout_s=5, name="test-direct")
        held.push_async_callback(direct.aclose)
        api, stage = await held.enter_async_context(cluster_on(proxy.url))
        yield Scenery(server, proxy, direct, api, stage)


def commands(scene: Scene) -> Mapping[str, Callable[[], Awaitable[object]]]:
    """One of each way in which we speak to Redis."""
    store = scene.store
    return {
        "plain": store.ping,
        "script": scene.submit,
        "pipeline": lambda: store.log.read(new_turn_id(), after=0),
        "transaction": lambda: store.queue.enqueue(new_turn_id(), None),
        "beat": lambda: store.workers.beat(a_worker(W1)),
        "registry": store.workers.alive,
        "verdict": lambda: store.key_verdicts.get(TENANT),
        "scan": lambda: anext(store.conversations.scan()),
        "check": store.check,
    }


@pytest.mark.parametrize("are_connected", [True, False])
@pytest.mark.parametrize("trouble", ["black hole", "no replies", "no connections"])
async def test_no_command_waits_longer_than_its_deadline(trouble: str, are_connected: bool) -> None:
    """On a connection that was made before, and on one that has to be made."""
    async with (
        real_redis() as server,
        redis_proxy(server.url) as proxy,
        scene_at(proxy.url, Keys("test"), timeout_s=TIMEOUT_S) as scene,
    ):
        calls = commands(scene)
        if are_connected:
            await asyncio.gather(*(scene.store.ping() for _ in calls))
        match trouble:
            case "black hole":
                proxy.black_hole()
            case "no replies":
                proxy.black_hole(Way.TO_CLIENT)
            case _:
                proxy.hang_new()
                proxy.cut()
        took_s = dict(
            zip(calls, await asyncio.gather(*map(_until_refused, calls.values())), strict=True)
        )
        assert max(took_s.values()) < ESTABLISH_TIMEOUT_S + TIMEOUT_S + SLACK_S, took_s
        if trouble != "no connections":
            assert max(took_s.values()) < 2 * TIMEOUT_S + SLACK_S, took_s

        proxy.heal()
        async with asyncio.timeout(RECOVERED_S):
            await scene.store.ping()
            await scene.submit()


async def _until_refused(call: Callable[[], Awaitable[object]]) -> float:
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        async with asyncio.timeout(60):
            await call()
    return time.monotonic() - began


@pytest.mark.parametrize("way", [None, Way.TO_CLIENT])
async def test_subscriptions_and_bells_come_back_from_a_black_hole(way: Way | None) -> None:
    claimed: list[TurnId] = []

    async def claim(turn: TurnId) -> None:
        claimed.append(turn)

    async with (
        real_redis() as server,
        redis_proxy(server.url) as proxy,
        scene_at(proxy.url, Keys("test"), timeout_s=TIMEOUT_S) as scene,
    ):
        subscriber, publisher = scene.store.subscriber(REPLICA), scene.store.publisher()
        placement = scene.store.placement(W1, claim=claim, has_room=lambda: True)
        async with running(subscriber.run(), publisher.run(), placement.run()):
            await subscriber.subscribed.wait()
            before = proxy.connected
            proxy.black_hole(*[way] if way else [])
            await asyncio.sleep(LONGER_THAN_EVERY_DEADLINE_S)
            assert proxy.connected > before, "none of them is waiting for ever"
            proxy.heal()
            began = time.monotonic()

            turn = new_turn_id()
            await scene.store.queue.enqueue(turn, None)
            await until(lambda: claimed == [turn])
            with subscriber.attach(turn) as mailbox:
                async with asyncio.timeout(RECOVERED_S):
                    while not mailbox.take():
                        publisher.publish(REPLICA, b"%b 1 1 {}" % turn.encode())
                        await mailbox.wait(0.2)
            assert time.monotonic() - began < 5


async def test_streams_are_exact_through_every_trouble_of_the_network() -> None:
    async with scenery() as at:
        told = [Told(count=1100) for _ in range(3)]
        async with asyncio.timeout(120), asyncio.TaskGroup() as group:
            for i, one in enumerate(told):
                group.create_task(listen(at.api, f"c{i}", one))
            for one in told:
                await one.is_under_way.wait()
            await _do_it_all(at)
            assert not any(one.is_done for one in told), "it was over before the troubles were"
        for one in told:
            one.judge()
            assert one.is_done, one.error
        assert all(len(agents) == 1 for agents in at.stage.agents.values())
        await until_a_turn_works(at.api)


async def _do_it_all(at: Scenery) -> None:
    proxy = at.proxy
    for _ in range(3):
        assert proxy.cut() > 3
        await asyncio.sleep(0.1)
    for to, after in ((b"EVALSHA", 0), (b"EVALSHA", 3), (b"XRANGE", 5), (b"PUBLISH", 0)):
        cut = proxy.cut_reply(to=to, after=after)
        if to == b"XRANGE":
            proxy.cut()  # While live frames come nobody reads the log.
        async with asyncio.timeout(20):
            await cut.wait()
    await at.direct.script_flush()
    proxy.cut()
    proxy.refuse()
    await asyncio.sleep(1)
    proxy.heal()
    proxy.delay(0.2)
    await asyncio.sleep(1)
    proxy.heal()
    await at.direct.client_pause(1000)
    await asyncio.sleep(1.2)
    proxy.black_hole(Way.TO_SERVER)
    await asyncio.sleep(3)
    proxy.heal()


async def test_streams_outlive_a_redis_that_answers_nobody_for_longer_than_any_deadline() -> None:
    async with scenery() as at:
        told = Told(count=600)
        async with asyncio.timeout(120), asyncio.TaskGroup() as group:
            group.create_task(listen(at.api, "c", told))
            await told.is_under_way.wait()
            at.proxy.black_hole()
            refused = await at.api.chat("echo meanwhile")
            await asyncio.sleep(LONGER_THAN_EVERY_DEADLINE_S)
            at.proxy.heal()
            healed = time.monotonic()
            await until_a_turn_works(at.api)
            assert time.monotonic() - healed < RECOVERED_S
        told.judge()
        assert told.is_done
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1


async def test_a_full_redis_refuses_new_turns_and_running_ones_wait_for_room() -> None:
    async with scenery() as at:
        told = Told()
        async with asyncio.timeout(120), asyncio.TaskGroup() as group:
            group.create_task(listen(at.api, "c", told))
            await told.is_under_way.wait()
            await at.direct.config_set("maxmemory", "1")
            refused = await at.api.chat("echo meanwhile", stream=True)
            await asyncio.sleep(2)
            await at.direct.config_set("maxmemory", "0")
            await until_a_turn_works(at.api)
        told.judge()
        assert told.is_done
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "store_unavailable"
        assert int(refused.headers["retry-after"]) >= 1


async def test_an_emptied_redis_fails_streams_visibly_and_leaves_idle_containers_alone() -> None:
    async with scenery() as at:
        headers = {"X-Conversation-ID": "idle"}
        before = await at.api.chat("echo before", headers=headers)
        assert before.status_code == 200
        [idle] = at.stage.containers()

        told = Told()
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            group.create_task(listen(at.api, "busy", told))
            await told.is_under_way.wait()
            await at.direct.flushall()
        told.judge()
        assert "turn_log_lost" in (told.error or "")

        async with asyncio.timeout(RECOVERED_S):
            while (await at.stage.store.conversations.get(idle)) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        history = [
            {"role": "user", "content": "echo before"},
            {"role": "assistant", "content": "before"},
            {"role": "user", "content": "history"},
        ]
        after = await at.api.chat("", headers=headers, messages=history)
        assert after.status_code == 200
        assert "echo before" in after.json()["choices"][0]["message"]["content"]
        assert len(at.stage.agents[idle]) == 1, "its living container served it"
        await until_a_turn_works(at.api)


async def test_a_turn_that_ends_in_a_cut_ends_once() -> None:
    """The reply to the finish is lost: it is said again, and changes nothing."""
    async with (
        real_redis() as server,
        redis_proxy(server.url) as proxy,
        scene_at(proxy.url, Keys("test")) as scene,
    ):
        lease, turn = await scene.begin()
        await scene.store.log.append(lease, turn, text_events(1, 2))
        cut = proxy.cut_reply(to=b"EVALSHA", after=0)
        assert not await scene.store.turns.finish(lease, turn, 3, DONE, idle_timeout_s=60)
        assert cut.is_set()
        page = await scene.store.log.read(turn, after=0)
        assert [n for n, _ in page.events] == [1, 2, 3]
        record = await scene.store.conversations.get(lease.conversation)
        assert record is not None
        assert record.turns == 1


async def test_a_turn_its_owner_was_not_told_of_is_looked_for_at_the_next_subscription() -> None:
    """Long before the sweeps come by."""
    seldom = replace(QUICK, sweep_at_least_s=60, sweep_at_most_s=60)
    async with AsyncExitStack() as held:
        server = await held.enter_async_context(real_redis())
        proxy = await held.enter_async_context(redis_proxy(server.url))
        behind = connect(proxy.url, timeout_s=2, name="test")
        direct = connect(server.url, timeout_s=2, name="test-direct")
        held.push_async_callback(behind.aclose)
        held.push_async_callback(direct.aclose)
        stage = await held.enter_async_context(Stage(behind))
        await stage.worker(timings=seldom)
        await stage.ended(await stage.ask(C, "echo before"))

        proxy.refuse()
        proxy.cut()
        stage.store = store_on(direct, stage.keys)
        turn = await stage.ask(C, "echo after", history=("echo before",), is_hinted=False)
        proxy.heal()
        assert (await stage.ended(turn, timeout_s=20)).state is TurnState.DONE
