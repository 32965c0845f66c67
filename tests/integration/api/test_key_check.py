"""The upstream is asked about a key once, before anything is started for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from tests.fakes.running_api import KEY, RunningApi, running_api


class ScriptedUpstream:
    """`GET /v1/models` of an upstream, answering with a status or not at all."""

    def __init__(self) -> None:
        self.status = 200
        self.keys: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.url = ""

    async def _models(self, request: web.Request) -> web.Response:
        assert request.headers["anthropic-version"]
        self.keys.append(request.headers["x-api-key"])
        await self.gate.wait()
        headers = {"location": "http://127.0.0.1:1/"} if self.status == 307 else {}
        return web.json_response({"data": []}, status=self.status, headers=headers)

    @asynccontextmanager
    async def served(self) -> AsyncIterator[ScriptedUpstream]:
        app = web.Application()
        app.router.add_get("/v1/models", self._models)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        address: Any = runner.addresses[0]
        self.url = f"http://127.0.0.1:{address[1]}"
        try:
            yield self
        finally:
            self.gate.set()
            await runner.cleanup()


@asynccontextmanager
async def checked_api(**settings: Any) -> AsyncIterator[tuple[RunningApi, ScriptedUpstream]]:
    async with ScriptedUpstream().served() as upstream:
        chosen = {"key_check": True, "anthropic_base_url": upstream.url} | settings
        async with running_api(settings=chosen) as api:
            yield api, upstream


async def test_good_key_is_asked_for_once() -> None:
    async with checked_api() as (api, upstream):
        statuses = [(await api.chat("hi")).status_code for _ in range(3)]
    assert statuses == [200, 200, 200]
    assert upstream.keys == [KEY]


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("stream", [True, False])
async def test_refused_key_is_401_and_starts_nothing(status: int, stream: bool) -> None:
    async with checked_api() as (api, upstream):
        upstream.status = status
        answers = [await api.chat("hi", stream=stream) for _ in range(3)]
    assert [a.status_code for a in answers] == [401] * 3
    assert answers[0].json()["error"]["code"] == "invalid_api_key"
    assert answers[0].headers["x-should-retry"] == "false"
    assert upstream.keys == [KEY]
    assert api.worker.requests == []


@pytest.mark.parametrize("status", [404, 429, 500, 529, 307])
async def test_upstream_that_cannot_say_lets_the_turn_tell(status: int) -> None:
    async with checked_api() as (api, upstream):
        upstream.status = status
        assert (await api.chat("hi")).status_code == 200


async def test_unreachable_upstream_lets_the_turn_tell() -> None:
    async with checked_api(anthropic_base_url="http://127.0.0.1:1") as (api, _):
        assert (await api.chat("hi")).status_code == 200


async def test_silent_upstream_is_waited_for_briefly() -> None:
    async with checked_api() as (api, upstream):
        upstream.gate.clear()
        async with asyncio.timeout(5):
            assert (await api.chat("hi")).status_code == 200


async def test_callers_of_one_key_wait_for_one_answer() -> None:
    async with checked_api() as (api, upstream):
        upstream.gate.clear()
        async with asyncio.TaskGroup() as group:
            calls = [group.create_task(api.chat(f"hi {n}")) for n in range(10)]
            other = {"authorization": "Bearer sk-ant-other-0123"}
            calls.append(group.create_task(api.chat("hi", headers=other)))
            while len(upstream.keys) < 2:  # noqa: ASYNC110 - both keys are being asked about
                await asyncio.sleep(0.005)
            upstream.gate.set()
    assert [call.result().status_code for call in calls] == [200] * 11
    assert sorted(upstream.keys) == sorted([KEY, "sk-ant-other-0123"])


async def test_verdict_is_shared_with_other_replicas() -> None:
    async with checked_api() as (api, upstream):
        await api.chat("hi")
        settings = {"key_check": True, "anthropic_base_url": upstream.url}
        async with running_api(settings=settings, store=api.store, has_worker=False) as other:
            assert (await other.chat("hi")).status_code == 200
    assert upstream.keys == [KEY]


async def test_check_can_be_switched_off() -> None:
    async with checked_api(key_check=False) as (api, upstream):
        upstream.status = 401
        assert (await api.chat("hi")).status_code == 200
    assert upstream.keys == []


async def test_a_refused_key_is_told_before_a_byte_of_the_body_is_waited_for() -> None:
    """Anybody with made-up keys could have us hold a body of 32 MB in each place for minutes."""
    async with checked_api() as (api, upstream):
        upstream.status = 401
        where = urlsplit(api.url)
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-made-up\r\n"
            b"Content-Type: application/json\r\nContent-Length: 30000000\r\n\r\n{"
        )
        async with asyncio.timeout(5):
            assert (await reader.readline()).split()[1] == b"401"
        writer.close()
