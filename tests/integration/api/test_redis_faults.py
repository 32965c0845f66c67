"""Answers through a Redis that restarts, forgets or stays away: complete, or failed visibly."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from infra.runtime.settings import as_environment
from infra.store.keys import Keys
from infra.store.open import Store, store_on
from infra.store.server.connection import connect
from infra.wire.events import TextDelta
from tests.fakes.echo_worker import EchoWorker, Gate, Pause, Script
from tests.fakes.redis_server import RealRedis, real_redis
from tests.fakes.running_api import KEY, SETTINGS, body, running_api

pytestmark = [pytest.mark.redis, pytest.mark.timeout(120)]

COUNT = 120
TICKING: Script = {
    "tick": [s for n in range(COUNT) for s in (TextDelta(text=f"{n} "), Pause(0.02))]
}


@asynccontextmanager
async def store_of(server: RealRedis) -> AsyncIterator[Store]:
    client = connect(server.url, timeout_s=2, name="test-api")
    try:
        yield store_on(client, Keys("test"))
    finally:
        await client.aclose()


async def numbers(answer: httpx.Response, reached: asyncio.Event) -> list[int]:
    """The numbers a stream tells; sets `reached` when it is well under way."""
    seen: list[int] = []
    async for line in answer.aiter_lines():
        if line.startswith('data: {"id"'):
            told = json.loads(line[6:])
            assert "error" not in told, told
            content = told["choices"][0]["delta"].get("content", "").strip()
            seen += [int(content)] if content else []
            if len(seen) == 10:
                reached.set()
    return seen


async def test_stream_is_exact_over_a_redis_restart() -> None:
    async with (
        real_redis(append_only=True) as server,
        store_of(server) as store,
        running_api(TICKING, store=store) as api,
        asyncio.TaskGroup() as group,
    ):
        request = body("tick", stream=True)
        async with api.http.stream("POST", "/v1/chat/completions", json=request) as answer:
            reached = asyncio.Event()
            reading = group.create_task(numbers(answer, reached))
            await reached.wait()
            await server.restart()
            assert await reading == list(range(COUNT))


async def test_stream_is_exact_over_a_frozen_redis() -> None:
    async with (
        real_redis() as server,
        store_of(server) as store,
        running_api(TICKING, store=store) as api,
        asyncio.TaskGroup() as group,
    ):
        request = body("tick", stream=True)
        async with api.http.stream("POST", "/v1/chat/completions", json=request) as answer:
            reached = asyncio.Event()
            reading = group.create_task(numbers(answer, reached))
            await reached.wait()
            server.freeze()
            await asyncio.sleep(1)
            server.thaw()
            assert await reading == list(range(COUNT))


async def test_stream_fails_visibly_when_redis_forgot_its_turn() -> None:
    held: Script = {"hold": [TextDelta(text="so far"), Gate("never")]}
    async with (
        real_redis() as server,
        store_of(server) as store,
        running_api(held, store=store) as api,
    ):
        request = body("hold", stream=True)
        async with api.http.stream("POST", "/v1/chat/completions", json=request) as answer:
            parts = answer.aiter_text()
            async with asyncio.timeout(20):
                seen = ""
                while "so far" not in seen:
                    seen += await anext(parts)
                await store.redis.flushall()
                told = "".join([part async for part in parts])
    assert '"code":"turn_log_lost"' in told
    assert "[DONE]" not in told


async def test_new_turns_are_503_while_redis_is_away_and_work_again_after() -> None:
    async with (
        real_redis() as server,
        store_of(server) as store,
        running_api(store=store) as api,
    ):
        assert (await api.chat("before")).status_code == 200
        await server.stop()
        refused = await api.chat("while away", stream=True)
        health = await api.http.get("/health")
        ready = await api.http.get("/health/ready")
        await server.start()
        async with asyncio.timeout(20):
            while (await api.chat("after")).status_code != 200:  # noqa: ASYNC110 - a user's retry
                await asyncio.sleep(0.2)
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "store_unavailable"
    assert int(refused.headers["retry-after"]) >= 1
    assert (health.status_code, health.json()["redis"]) == (503, "unavailable")
    assert ready.status_code == 503


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def until_ready(http: httpx.AsyncClient) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                if (await http.get("/health/ready")).status_code == 200:
                    return
            except httpx.TransportError:
                pass  # Not listening yet.
            await asyncio.sleep(0.05)


async def test_sigterm_drains_a_real_process() -> None:
    """`python -m api.main` as a deployment runs it, with an answer open beyond the grace."""
    held: Script = {"hold": [TextDelta(text="so far"), Gate("never")]}
    async with (
        real_redis() as server,
        store_of(server) as store,
        EchoWorker(store, held).running(),
    ):
        port = free_port()
        settings = SETTINGS.model_copy(
            update={
                "port": port,
                "redis_url": server.url,
                "redis_prefix": "test",
                "drain_timeout_s": 1.0,
            }
        )
        chosen = settings.model_validate(settings.model_dump(include=_SET | {"redis_url"}))
        environment = {k: v for k, v in os.environ.items() if not k.startswith("AGCLUSTER_")}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "api.main", env=environment | as_environment(chosen)
        )
        try:
            base = f"http://127.0.0.1:{port}"
            headers = {"x-api-key": KEY}
            async with httpx.AsyncClient(base_url=base, headers=headers, timeout=30) as http:
                await until_ready(http)
                assert (await http.post("/v1/chat/completions", json=body("hi"))).is_success
                request: dict[str, Any] = body("hold", stream=True)
                async with http.stream("POST", "/v1/chat/completions", json=request) as answer:
                    parts = answer.aiter_text()
                    seen = ""
                    async with asyncio.timeout(20):
                        while "so far" not in seen:
                            seen += await anext(parts)
                        process.send_signal(signal.SIGTERM)
                        seen += "".join([part async for part in parts])
            async with asyncio.timeout(20):
                assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert '"code":"shutting_down"' in seen
    assert "[DONE]" not in seen


_SET = SETTINGS.model_fields_set | {"redis_prefix"}
