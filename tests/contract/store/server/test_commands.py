"""Commands reach Redis over the pool or pipelined over one connection: callers see the same, and
the one connection keeps what the pool promised."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from infra.store.server.commands import CommandRunner, PooledCommands, StoreClient, runner_of
from infra.store.server.connection import connect
from infra.store.server.pipelined import BIG_BYTES, PipelinedCommands
from tests.contract.store.scene import Scene
from tests.fakes.redis_proxy import RedisProxy, redis_proxy
from tests.fakes.redis_server import RealRedis, real_redis

redis = pytest.mark.redis


def pipelined(client: Redis) -> PipelinedCommands:
    runner = runner_of(client)
    assert isinstance(runner, PipelinedCommands)
    return runner


@asynccontextmanager
async def client_of(url: str, *, timeout_s: float = 5) -> AsyncIterator[StoreClient]:
    client = connect(url, timeout_s=timeout_s, name="test")
    try:
        yield client
    finally:
        await client.aclose()


@asynccontextmanager
async def behind_proxy() -> AsyncIterator[tuple[RealRedis, RedisProxy, StoreClient]]:
    async with (
        real_redis() as server,
        redis_proxy(server.url) as proxy,
        client_of(proxy.url) as client,
    ):
        yield server, proxy, client


@pytest.fixture(params=["pool on a fake", "pool", "pipelined"])
def runner(request: pytest.FixtureRequest) -> CommandRunner:
    if request.param == "pool on a fake":
        return runner_of(request.getfixturevalue("fake"))
    real = request.getfixturevalue("real")
    return PooledCommands(real) if request.param == "pool" else pipelined(real)


async def outcome(asked: Awaitable[object]) -> object:
    """Its reply, or its error."""
    try:
        return await asked
    except RedisError as error:
        return error


def key(scene: Scene, name: str = "list") -> str:
    return f"{scene.keys.prefix}:{name}"


@redis
async def test_replies_and_errors_are_those_of_redis(
    runner: CommandRunner, real_scene: Scene
) -> None:
    name = key(real_scene)
    assert await runner.run("SET", name, b"\x00\xff") in (True, b"OK")
    assert await runner.run("GET", name) == b"\x00\xff"
    assert await runner.run("EVAL", "return {1, 'x', {2}, false}", 0) == [1, b"x", [2], None]
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await runner.run("LPUSH", name, 1)
    assert [*await runner.run_first([("STRLEN", name), ("DEL", name)])] == [2, 1]


@redis
async def test_commands_run_in_the_order_in_which_they_are_asked(real: Redis) -> None:
    runner = pipelined(real)
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        for i in range(200):
            group.create_task(runner.run("RPUSH", "test:order", i))
    assert await real.lrange("test:order", 0, -1) == [b"%d" % i for i in range(200)]  # type: ignore[misc]
    await real.delete("test:order")


@redis
async def test_what_is_to_leave_first_leaves_before_what_was_asked_before_it(real: Redis) -> None:
    runner = pipelined(real)
    async with asyncio.TaskGroup() as group:
        group.create_task(runner.run("RPUSH", "test:first", "later"))
        await asyncio.sleep(0)
        await runner.run_first([("RPUSH", "test:first", "a"), ("RPUSH", "test:first", "b")])
    assert await real.lrange("test:first", 0, -1) == [b"a", b"b", b"later"]  # type: ignore[misc]
    await real.delete("test:first")


@redis
async def test_a_pass_of_the_loop_is_one_write_on_one_connection() -> None:
    async with behind_proxy() as (server, proxy, client):
        await client.commands.run("PING")
        async with client_of(server.url) as other:
            before = (await other.info("stats"))["total_reads_processed"]
            await asyncio.gather(*(client.commands.run("PING") for _ in range(100)))
            after = (await other.info("stats"))["total_reads_processed"]
        assert proxy.connected == 1
        assert after - before < 10


@redis
async def test_a_cancelled_caller_leaves_no_hole(real: Redis) -> None:
    runner = pipelined(real)
    for passes in range(30):
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            tasks = [group.create_task(runner.run("ECHO", f"{passes}-{i}")) for i in range(passes)]
            for _ in range(passes % 4):
                await asyncio.sleep(0)
            for task in tasks[::2]:
                task.cancel()
        for i, task in enumerate(tasks[1::2]):
            assert task.result() == f"{passes}-{2 * i + 1}".encode()


@redis
async def test_a_command_that_lost_its_connection_is_sent_again_in_its_place() -> None:
    async with behind_proxy() as (_, proxy, client):
        await client.commands.run("PING")
        cut = proxy.cut_reply(to=b"RPUSH", after=2)
        asked = [client.commands.run("RPUSH", "test:again", i) for i in range(5)]
        await asyncio.gather(*asked)
        assert cut.is_set()
        assert proxy.connected == 2
        kept = await client.lrange("test:again", 0, -1)  # type: ignore[misc]
    assert kept == [b"%d" % i for i in range(5)] * 2


@redis
async def test_a_killed_redis_fails_all_that_wait_and_is_found_again_when_it_is_back() -> None:
    async with real_redis() as server, client_of(server.url) as client:
        await client.commands.run("PING")
        server.freeze()
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(outcome(client.commands.run("PING"))) for _ in range(50)]
            await asyncio.sleep(0.01)
            await server.kill()
        answers = [task.result() for task in asked]
        assert all(isinstance(answer, RedisConnectionError) for answer in answers), answers
        assert len({id(answer) for answer in answers}) == 50, "each has an error of its own"
        with pytest.raises(RedisConnectionError):
            await client.commands.run("PING")
        await server.start()
        assert await client.commands.run("PING") == b"PONG"


@redis
async def test_a_silent_redis_costs_each_command_its_deadline_and_is_left() -> None:
    async with real_redis() as server, client_of(server.url, timeout_s=0.4) as client:
        await client.commands.run("PING")
        server.freeze()
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            old = group.create_task(outcome(client.commands.run("PING")))
            await asyncio.sleep(0.3)
            young = group.create_task(outcome(client.commands.run("PING")))
        assert isinstance(old.result(), RedisTimeoutError)
        assert isinstance(young.result(), RedisTimeoutError)
        assert time.monotonic() - began < 5
        server.thaw()
        assert await client.commands.run("PING") == b"PONG"


@redis
async def test_one_slow_answer_does_not_fail_what_was_asked_after_it() -> None:
    async with real_redis() as server, client_of(server.url, timeout_s=0.6) as client:
        await client.commands.run("PING")
        server.freeze()
        async with asyncio.TaskGroup() as group:
            old = group.create_task(outcome(client.commands.run("PING")))
            await asyncio.sleep(0.5)
            young = group.create_task(client.commands.run("ECHO", "young"))
            await asyncio.sleep(0.2)
            server.thaw()
        assert young.result() == b"young"
        assert isinstance(old.result(), RedisTimeoutError)


@redis
async def test_a_replica_is_left_and_what_it_refused_is_sent_again() -> None:
    async with behind_proxy() as (server, proxy, client), client_of(server.url) as other:
        await client.commands.run("SET", "test:x", 1)
        await other.execute_command("REPLICAOF", "127.0.0.1", "1")  # type: ignore[no-untyped-call]
        with pytest.raises((ReadOnlyError, RedisConnectionError)):
            await client.commands.run("SET", "test:x", 2)
        assert proxy.connected > 1
        await other.execute_command("REPLICAOF", "NO", "ONE")  # type: ignore[no-untyped-call]
        await client.commands.run("SET", "test:x", 3)
        assert await other.get("test:x") == b"3"


@redis
async def test_a_full_redis_refuses_one_command_and_the_connection_stays() -> None:
    async with behind_proxy() as (server, proxy, client), client_of(server.url) as other:
        await client.commands.run("PING")
        await other.config_set("maxmemory", "1")
        async with asyncio.TaskGroup() as group:
            refused = group.create_task(outcome(client.commands.run("SET", "test:x", 1)))
            answered = group.create_task(client.commands.run("PING"))
        assert isinstance(refused.result(), ResponseError)
        assert answered.result() == b"PONG"
        assert proxy.connected == 1


@redis
async def test_what_waits_is_bounded_in_bytes(real: StoreClient) -> None:
    runner = PipelinedCommands(
        real.connection_pool.make_connection,
        timeout_s=5,
        big=PooledCommands(real),
        held_max_bytes=10_000,
    )
    asked = [runner.run("ECHO", "x" * 4_000) for _ in range(4)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert [isinstance(answer, bytes) for answer in answers] == [True, True, False, False]
    assert await runner.run("ECHO", "x" * 9_000) == b"x" * 9_000, "room comes back with replies"
    await runner.aclose()


@redis
async def test_several_that_do_not_fit_hold_nothing(real: StoreClient) -> None:
    runner = PipelinedCommands(
        real.connection_pool.make_connection,
        timeout_s=5,
        big=PooledCommands(real),
        held_max_bytes=10_000,
    )
    for _ in range(3):
        with pytest.raises(RedisConnectionError):
            await runner.run_first([("ECHO", "x" * 6_000), ("ECHO", "x" * 6_000)])
    assert await runner.run("ECHO", "x" * 9_000) == b"x" * 9_000
    await runner.aclose()


@redis
async def test_a_big_command_goes_over_the_pool() -> None:
    async with behind_proxy() as (_, proxy, client):
        await client.commands.run("PING")
        big = "x" * (BIG_BYTES + 1)
        assert await client.commands.run("ECHO", big) == big.encode()
        assert proxy.connected == 2


@redis
async def test_a_closed_client_fails_what_waits_and_runs_nothing_more() -> None:
    async with real_redis() as server:
        client = connect(server.url, timeout_s=5, name="test")
        await client.commands.run("PING")
        server.freeze()
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(outcome(client.commands.run("PING")))
            await asyncio.sleep(0.05)
            server.thaw()
            await client.commands.aclose()
        assert isinstance(waiting.result(), RedisConnectionError)
        with pytest.raises(RedisConnectionError, match="closed"):
            await client.commands.run("PING")
        await client.aclose()
