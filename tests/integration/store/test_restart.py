"""A Redis that is set up as ours is, configuration and users, comes back from a restart with all it
had.

It once came back almost empty: Redis 7 replays its append-only file as the user `default`, and
skips each transaction, and each script that writes more than once, that this user has no right to.
Only its log says so.
"""

from __future__ import annotations

import asyncio
import shutil

import pytest
from redis.asyncio import Redis

from infra.cli.up.redis_server import CONFIG, redis_fault
from infra.runtime.settings import Settings
from infra.store.keys import Keys
from infra.store.server.connection import connect
from infra.store.server.fitness import check
from infra.wire.errors import StoreUnfit
from tests.fakes.guarded_redis import GuardedRedis, filled_users, guarded_redis
from tests.integration.store.cluster import Told, cluster_on, listen

pytestmark = [pytest.mark.redis, pytest.mark.timeout(120)]

STREAMS = 3
HAS_RIGHTS = "user default off ~* &* +@all"
HAS_NONE = "user default off"

Kept = dict[bytes, tuple[bytes, int]]
"""Of each key its content's digest, and when it expires (Unix ms; -1: never)."""


@pytest.mark.parametrize("end", ["SIGTERM", "SIGKILL"])
async def test_a_restart_in_mid_stream_brings_back_every_key(end: str) -> None:
    async with (
        guarded_redis(config=CONFIG) as server,
        cluster_on(server.as_user("worker"), api_url=server.as_user("api"), prefix="agc:r") as (
            api,
            stage,
        ),
    ):
        told = [Told() for _ in range(STREAMS)]
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for i, one in enumerate(told):
                group.create_task(listen(api, f"c{i}", one))
            for one in told:
                await one.is_under_way.wait()
            before = await _held_still(server)
            await (server.stop() if end == "SIGTERM" else server.kill())
            assert await _replayed(server) == before
            await server.start()
        for one in told:
            one.judge()
            assert one.is_done
        assert all(len(agents) == 1 for agents in stage.agents.values()), "tools ran once"


async def test_a_redis_that_would_lose_its_data_is_refused_by_those_who_may_look() -> None:
    users = filled_users()
    assert HAS_RIGHTS in users
    async with guarded_redis(config=CONFIG, users=users.replace(HAS_RIGHTS, HAS_NONE)) as server:
        for user in ("api", "worker", "watcher"):
            with pytest.raises(StoreUnfit, match=r"lose its data.*'multi'.*ACL SETUSER default"):
                await _check_as(server, user)
        chosen = Settings.model_validate({"redis_url": server.as_user("worker")})
        assert "lose its data" in (await redis_fault(chosen) or ""), "the doctor says so too"
        await _write_together(server)
        await server.kill()
        assert await _replayed(server) == {}, "else this refusal has had its day"


async def test_who_may_not_look_at_the_rights_of_others_starts_all_the_same() -> None:
    users = filled_users().replace(HAS_RIGHTS, HAS_NONE).replace(" +acl|dryrun", "")
    async with guarded_redis(config=CONFIG, users=users) as server:
        await _check_as(server, "api")


async def test_one_that_writes_nothing_down_has_nothing_to_lose() -> None:
    users = filled_users().replace(HAS_RIGHTS, HAS_NONE)
    async with guarded_redis(users=users) as server:
        await _check_as(server, "api")


async def _held_still(server: GuardedRedis) -> Kept:
    """Everything, while nobody can write any more."""
    async with Redis.from_url(server.as_user("watcher")) as watcher:
        await watcher.execute_command("CLIENT", "PAUSE", "60000", "WRITE")
        kept = await _kept(watcher)
    assert len(kept) > 5 * STREAMS
    return kept


async def _replayed(server: GuardedRedis) -> Kept:
    """What a Redis of the same kind, which nobody uses, reads from the files of the stopped one."""
    async with guarded_redis(
        config=CONFIG, users=(server.folder / "users.acl").read_text()
    ) as other:
        await other.stop()
        files = "appendonlydir"
        shutil.copytree(server.folder / files, other.folder / files, dirs_exist_ok=True)
        await other.start()
        async with Redis.from_url(other.as_user("watcher")) as watcher:
            return await _kept(watcher)


async def _kept(watcher: Redis) -> Kept:
    kept = {}
    for key in await watcher.keys("*"):
        # Not DUMP, which tells the fields of a hash in the order they were set.
        [digest] = await watcher.execute_command("DEBUG", "DIGEST-VALUE", key)  # type: ignore[no-untyped-call]
        kept[key] = digest, int(await watcher.execute_command("PEXPIRETIME", key))  # type: ignore[no-untyped-call]
    return kept


async def _write_together(server: GuardedRedis) -> None:
    async with (
        Redis.from_url(server.as_user("worker")) as worker,
        worker.pipeline(transaction=True) as pipe,
    ):
        pipe.set("agc:one", 1).set("agc:two", 2)
        await pipe.execute()


async def _check_as(server: GuardedRedis, user: str) -> None:
    client = connect(server.as_user(user), timeout_s=5, name="test")
    try:
        await check(client, Keys())
    finally:
        await client.aclose()
