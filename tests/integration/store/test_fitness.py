"""At its start a program waits for its Redis, and refuses one that would lose things."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from infra.cli.up.redis_server import redis_fault
from infra.runtime.settings import Settings, SettingsRefused, as_environment
from infra.store.keys import Keys
from infra.store.open import open_store
from infra.store.server.fitness import check, until_fit
from infra.wire.errors import StoreUnavailable, StoreUnfit
from tests.fakes.redis_server import RealRedis, real_redis

pytestmark = [pytest.mark.redis, pytest.mark.timeout(120)]

USERS = """
user default on nopass ~* &* +@all
user limited on nopass ~agc:* +@all -eval -evalsha
user blind on nopass ~agc:* +@all -info
user foreign on nopass ~agc:* +@all
"""


@pytest.fixture
async def server() -> AsyncIterator[RealRedis]:
    """One that evicts, with users who may not do all we do."""
    options = ("--maxmemory-policy", "allkeys-lru", "--aclfile", "users.acl")
    server = RealRedis(options=options)
    (server.folder / "users.acl").write_text(USERS)
    try:
        await server.start()
        yield server
    finally:
        server.remove()


def settings(url: str, **more: Any) -> Settings:
    chosen = {"redis_url": url, "redis_timeout_s": 2, "redis_patience_s": 20}
    return Settings.model_validate(chosen | more)


async def judge(chosen: Settings) -> None:
    """What every program does at its start."""
    store = open_store(chosen, name="test")
    try:
        await until_fit(store, asyncio.Event(), patience_s=chosen.redis_patience_s)
    finally:
        await store.aclose()


async def test_a_redis_that_evicts_is_refused_at_once_unless_allowed(
    server: RealRedis, caplog: pytest.LogCaptureFixture
) -> None:
    began = time.monotonic()
    with pytest.raises(StoreUnfit, match=r"allkeys-lru.*noeviction.*REDIS_ALLOW_EVICTION"):
        await judge(settings(server.url))
    assert time.monotonic() - began < 5, "waiting does not mend it"

    with caplog.at_level(logging.WARNING):
        await judge(settings(server.url, redis_allow_eviction=True))
    assert "noeviction" in caplog.text


@pytest.mark.parametrize(("user", "lacks"), [("limited", "eval"), ("blind", "info")])
async def test_a_user_who_may_not_do_what_is_needed_is_told_what(
    server: RealRedis, user: str, lacks: str
) -> None:
    chosen = settings(f"{server.url}?username={user}&password=x", redis_allow_eviction=True)
    with pytest.raises(StoreUnfit, match=rf"'{lacks}'.*users\.acl"):
        await judge(chosen)


async def test_keys_that_a_user_may_not_touch_are_told(server: RealRedis) -> None:
    url = f"{server.url}?username=foreign&password=x"
    chosen = settings(url, redis_allow_eviction=True, redis_prefix="other")
    with pytest.raises(StoreUnfit, match="AGCLUSTER_REDIS_PREFIX"):
        await judge(chosen)


async def test_a_wrong_password_is_told_at_once_and_not_repeated(server: RealRedis) -> None:
    with pytest.raises(StoreUnfit, match=r"credentials of AGCLUSTER_REDIS_URL") as raised:
        await judge(settings(f"{server.url}?username=nobody&password=wrong-canary"))
    assert "wrong-canary" not in str(raised.value)


class OldRedis:
    """Answers INFO as another version, or kind, of Redis."""

    def __init__(self, **facts: Any) -> None:
        self._facts = {"redis_version": "7.0.0", "maxmemory_policy": "noeviction"} | facts

    async def info(self) -> dict[str, Any]:
        return self._facts

    async def eval(self, *_: object) -> int:
        return 0


@pytest.mark.parametrize(
    ("facts", "error", "told"),
    [
        ({"redis_version": "6.0.16"}, StoreUnfit, r"6\.0\.16 is too old.*6\.2"),
        ({"cluster_enabled": 1}, StoreUnfit, "Redis Cluster"),
        ({"role": "slave"}, StoreUnavailable, "replica"),
    ],
)
async def test_a_redis_of_another_kind_is_refused(
    facts: dict[str, Any], error: type[Exception], told: str
) -> None:
    redis: Any = OldRedis(**facts)
    with pytest.raises(error, match=told) as raised:
        await check(redis, Keys())
    assert type(raised.value) is error
    await check(OldRedis(redis_version="6.2.14"), Keys())  # type: ignore[arg-type]


async def test_a_redis_that_comes_late_is_waited_for() -> None:
    async with real_redis() as server:
        await server.stop()
        async with asyncio.TaskGroup() as group:
            judging = group.create_task(judge(settings(server.url)))
            await asyncio.sleep(1)
            assert not judging.done()
            await server.start()


async def test_a_redis_that_never_comes_is_given_up_with_a_clear_word() -> None:
    chosen = settings("redis://127.0.0.1:1", redis_patience_s=1)
    with pytest.raises(StoreUnavailable, match=r"AGCLUSTER_REDIS_URL\) has not been there for 1 s"):
        await judge(chosen)
    assert "has not been there" in (await redis_fault(chosen, patience_s=0.5) or "")


async def test_one_told_to_stop_waits_no_longer() -> None:
    chosen = settings("redis://127.0.0.1:1")
    store, stop = open_store(chosen, name="test"), asyncio.Event()
    stop.set()
    async with asyncio.timeout(5):
        await until_fit(store, stop, patience_s=60)
    await store.aclose()


def test_a_url_that_is_none_is_a_wrong_setting() -> None:
    with pytest.raises(SettingsRefused, match="AGCLUSTER_REDIS_URL"):
        open_store(settings("http://localhost"), name="test")
    with pytest.raises(SettingsRefused, match="rediss://"):
        open_store(settings("redis://localhost", redis_ca_file=Path("/ca.pem")), name="test")


@pytest.mark.parametrize("program", ["api.main", "worker.main"])
async def test_programs_end_with_the_reason(
    server: RealRedis, program: str, tmp_path: Path
) -> None:
    chosen = settings(server.url, secret="s" * 40, data_dir=tmp_path, port=0)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AGCLUSTER_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", program),
        env=environment | as_environment(chosen),
        cwd=Path(__file__).parents[3],
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(60):
            _, told = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode in (1, 2)
    assert b"noeviction" in told.splitlines()[-1]
