"""The upstream is asked about a key once, before anything is started for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from openai.types import Model as OpenAIModel

from tests.fakes.running_api import KEY, RunningApi, running_api


class ScriptedUpstream:
    """`GET /v1/models` of an upstream, answering with a status or not at all."""

    def __init__(self) -> None:
        self.status = 200
        self.keys: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.url = ""
        self.models: list[dict[str, Any]] = []

    async def _models(self, request: web.Request) -> web.Response:
        assert request.headers["anthropic-version"]
        self.keys.append(request.headers["x-api-key"])
        await self.gate.wait()
        headers = {"location": "http://127.0.0.1:1/"} if self.status == 307 else {}
        return web.json_response({"data": self.models}, status=self.status, headers=headers)

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


NEW = {"id": "claude-next-6-20270101", "created_at": "2027-01-01T00:00:00Z", "type": "model"}


async def test_list_is_the_upstreams_own_beside_ours() -> None:
    """A new model needs no release of ours."""
    async with checked_api(upstream_models=True) as (api, upstream):
        odd: list[Any] = [
            {"id": "no id\n"},
            {"id": 5},
            "x",
            {"id": "claude-undated", "created_at": "x"},
        ]
        upstream.models = [NEW, *odd]
        listed = (await api.http.get("/v1/models")).json()["data"]
        keyless = {"authorization": ""}
        ours = (await api.http.get("/v1/models", headers=keyless)).json()["data"]
        await api.http.get("/v1/models")
        asked = [
            await api.chat("hi", model=name)
            for name in ("claude-next-6-20270101", "claude-next-6", "anthropic/claude-next-6")
        ]
        unknown = await api.chat("hi", model="claude-none")
    assert {m["id"]: m["created"] for m in listed if m not in ours} == {
        "claude-next-6-20270101": 1798761600,
        "claude-undated": 1735689600,
    }
    assert [m for m in listed if m in ours] == ours
    assert [answer.status_code for answer in asked] == [200, 200, 200]
    assert {request.model for request in api.worker.requests} == {"claude-next-6-20270101"}
    assert unknown.status_code == 404
    assert len(upstream.keys) == 2, "one check of the key, one list"


@pytest.mark.parametrize("path", ["/v1/models", "/models", "/v1/models/claude-sonnet-4.5"])
async def test_key_that_the_upstream_refuses_gets_no_list(path: str) -> None:
    """Open WebUI's "verify" said yes to it."""
    async with checked_api() as (api, upstream):
        upstream.status = 401
        refused = await api.http.get(path)
        malformed = await api.http.get(path, headers={"authorization": "Bearer x"})
        keyless = await api.http.get(path, headers={"authorization": ""})
    assert [a.status_code for a in (refused, malformed, keyless)] == [401, 401, 200]
    assert refused.json()["error"]["code"] == "invalid_api_key"
    assert "begins with `sk-ant-`" in refused.json()["error"]["message"]


@pytest.mark.parametrize("status", [500, 404, 200])
async def test_upstream_without_a_list_leaves_ours(status: int) -> None:
    async with checked_api(upstream_models=True) as (api, upstream):
        upstream.status = status
        listed = (await api.http.get("/v1/models")).json()["data"]
    assert "claude-sonnet-4.5" in [model["id"] for model in listed]


@pytest.mark.parametrize(
    "name",
    ["claude-sonnet-4-5", "claude-sonnet-4-5-20250929", "anthropic/claude-sonnet-4.5",
     "anthropic/claude-sonnet-4-5-20250929", "claude-sonnet-4-5-latest"],
)  # fmt: skip
async def test_model_is_found_in_the_forms_that_clients_write(name: str) -> None:
    async with running_api() as api:
        answer = await api.chat("hi", model=name)
        shown = await api.http.get(f"/v1/models/{name}")
    assert answer.json()["model"] == name
    assert api.worker.requests[0].model == "claude-sonnet-4-5-20250929"
    assert (shown.status_code, shown.json()["id"]) == (200, name)


async def test_models_say_what_clients_read() -> None:
    """The upstream's figures count for our names of its models too."""
    known = {
        "id": "claude-sonnet-4-5-20250929",
        "max_input_tokens": 1_000_000,
        "max_tokens": 64_000,
        "capabilities": {"pdf_input": {"supported": False}},
    }
    async with checked_api(upstream_models=True) as (api, upstream):
        upstream.models = [known, NEW]
        typed = OpenAIModel.model_validate((await api.http.get("/v1/models")).json()["data"][0])
        told = (await api.http.get("/v1/models/claude-sonnet-4.5")).json()
        new = (await api.http.get("/v1/models/claude-next-6")).json()
    assert typed.object == "model"
    assert {told[name] for name in ("context_length", "context_window", "max_model_len")} == {
        1_000_000
    }
    assert told["max_output_tokens"] == 64_000
    assert told["architecture"]["input_modalities"] == ["text", "image"]
    assert told["top_provider"] == {"context_length": 1_000_000, "max_completion_tokens": 64_000}
    assert (new["context_length"], "max_output_tokens" in new) == (200_000, False)
    assert new["architecture"]["input_modalities"] == ["text", "image", "file"]
