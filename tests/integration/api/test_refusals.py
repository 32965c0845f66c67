"""Everything that is refused, before anything was started for it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from api.http.edge import HEADERS_MAX_BYTES
from tests.fakes.running_api import KEY, MODEL, RunningApi, body, running_api

ERROR_FIELDS = {"message", "type", "param", "code"}


def error_of(answer: httpx.Response) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    found: dict[str, Any] = answer.json()["error"]
    assert set(found) == ERROR_FIELDS
    assert found["message"]
    return found


async def post(api: RunningApi, content: Any, **headers: str) -> httpx.Response:
    return await api.http.post("/v1/chat/completions", content=content, headers=headers)


@pytest.mark.parametrize("stream", [True, False])
async def test_missing_key_is_401_before_the_body_is_looked_at(stream: bool) -> None:
    async with running_api() as api, httpx.AsyncClient(base_url=api.url) as http:
        answer = await http.post("/v1/chat/completions", json={"stream": stream})
    assert answer.status_code == 401
    error = error_of(answer)
    assert error["type"] == "authentication_error"
    assert error["code"] == "missing_api_key"


async def test_malformed_key_is_401() -> None:
    async with running_api() as api:
        answer = await api.chat("x", headers={"authorization": "Bearer nope"})
    assert answer.status_code == 401
    assert error_of(answer)["code"] == "invalid_api_key"
    assert "begins with `sk-ant-`" in error_of(answer)["message"]


async def test_a_demo_takes_any_key() -> None:
    async with running_api(settings={"demo": True}) as api:
        answer = await api.chat("x", headers={"authorization": "Bearer x"})
    assert answer.status_code == 200


async def test_unknown_model_is_404() -> None:
    async with running_api() as api:
        answer = await api.chat("x", model="gpt-99", stream=True)
    assert answer.status_code == 404
    error = error_of(answer)
    assert (error["code"], error["param"]) == ("model_not_found", "model")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "user", "content": "x"}] * 4097}, "messages"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        ({"model": 7}, "model"),
        ({"n": 2}, "n"),
        ({"stream": "yes"}, "stream"),
    ],
)
async def test_bad_field_is_400_by_name(change: dict[str, Any], param: str) -> None:
    async with running_api() as api:
        answer = await post(api, json.dumps(body("x") | change))
    assert answer.status_code == 400
    error = error_of(answer)
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert api.worker.requests == []


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"null", b"[" * 100_000])
async def test_broken_json_is_400(content: bytes) -> None:
    async with running_api() as api:
        answer = await post(api, content)
    assert answer.status_code == 400
    assert "JSON" in error_of(answer)["message"]


async def test_absurd_conversation_id_is_400() -> None:
    async with running_api() as api:
        answer = await api.chat("x", headers={"x-conversation-id": "x" * 257})
    assert answer.status_code == 400
    assert error_of(answer)["param"] == "X-Conversation-ID"


async def test_bad_disconnect_policy_is_400() -> None:
    async with running_api() as api:
        answer = await api.chat("x", headers={"x-on-disconnect": "explode"})
    assert error_of(answer)["param"] == "X-On-Disconnect"


async def test_absurd_headers_are_431() -> None:
    async with running_api() as api:
        answer = await api.chat("x", headers={"x-much": "x" * HEADERS_MAX_BYTES})
    assert answer.status_code == 431
    error_of(answer)


async def test_body_over_the_limit_is_413() -> None:
    async with running_api(settings={"max_body_bytes": 10_000}) as api:
        answer = await post(api, b"x" * 10_001)
        fits = await api.chat("x" * 9_000)
    assert answer.status_code == 413
    assert error_of(answer)["code"] == "body_too_large"
    assert fits.status_code == 200


async def test_chunked_body_over_the_limit_is_413() -> None:
    async def parts() -> Any:
        for _ in range(20):
            yield b"x" * 1000

    async with running_api(settings={"max_body_bytes": 10_000}) as api:
        answer = await post(api, parts())
    assert answer.status_code == 413
    error_of(answer)


async def test_other_paths_and_methods_answer_in_openais_form() -> None:
    async with running_api() as api:
        answers = [
            await api.http.get("/nope"),
            await api.http.get("/v1/models/nope"),
            await api.http.get("/v1/chat/completions"),
            await api.http.delete("/v1/models"),
            await api.http.options("/v1/chat/completions"),
        ]
    assert [a.status_code for a in answers] == [404, 404, 405, 405, 405]
    for answer in answers:
        error_of(answer)
    assert answers[2].headers["allow"] == "POST"


async def test_request_id_is_the_clients_or_a_fresh_one() -> None:
    async with running_api() as api:
        own = await api.http.get("/v1/models", headers={"x-request-id": "req-77"})
        odd = await api.http.get("/v1/models", headers={"x-request-id": "a b<script>"})
    assert own.headers["x-request-id"] == "req-77"
    assert odd.headers["x-request-id"].startswith("req_")


async def test_crash_is_a_500_without_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    async with running_api() as api:
        # A programmer's error, acted out where no operating error can be.
        object.__setattr__(api.deps, "turns", None)
        answer = await api.chat("x", headers={"x-request-id": "req-crash"})
    assert answer.status_code == 500
    assert error_of(answer)["code"] == "internal_error"
    assert "NoneType" not in answer.text
    assert answer.headers["x-request-id"] == "req-crash"
    assert any(record.exc_info for record in caplog.records)
    assert KEY not in caplog.text


async def test_slow_body_is_408() -> None:
    from api.app import create_app
    from api.http.edge import Edge

    async with running_api() as api:
        app = Edge(
            create_app(api.deps),
            max_body_bytes=1000,
            requests_max=10,
            bodies_max_bytes=1000,
            file_max_bytes=1000,
            body_stall_s=0.05,
        )
        sent: list[Any] = []

        async def receive() -> Any:
            await asyncio.Event().wait()

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/chat/completions",
            "raw_path": b"/v1/chat/completions",
            "query_string": b"",
            "headers": [(b"x-api-key", KEY.encode())],
        }
        await app(scope, receive, send)
    assert sent[0]["status"] == 408
    assert (b"connection", b"close") in sent[0]["headers"]


async def test_models_are_listed_without_a_key_or_a_worker() -> None:
    async with running_api(has_worker=False) as api, httpx.AsyncClient(base_url=api.url) as http:
        listed = (await http.get("/v1/models")).json()
        short = (await http.get("/models")).json()
        one = (await http.get(f"/v1/models/{MODEL}")).json()
        alias = (await http.get("/models/claude-sonnet-4.5")).json()
        unknown = await http.get("/v1/models/gpt-99")
    assert listed == short
    assert listed["object"] == "list"
    assert {MODEL, "claude-sonnet-4.5"} <= {m["id"] for m in listed["data"]}
    assert {name: one[name] for name in ("id", "object", "created", "owned_by")} == {
        "id": MODEL,
        "object": "model",
        "created": 1759104000,
        "owned_by": "anthropic",
    }
    assert alias["created"] == one["created"]
    assert unknown.status_code == 404
    assert error_of(unknown)["param"] == "model"


async def test_official_client_lists_models() -> None:
    async with running_api() as api, api.openai() as client:
        assert MODEL in [m.id async for m in client.models.list()]
        assert (await client.models.retrieve(MODEL)).id == MODEL


async def test_health_with_a_worker() -> None:
    async with running_api() as api:
        health = await api.http.get("/health")
        ready = await api.http.get("/health/ready")
        live = await api.http.get("/health/live")
        root = await api.http.get("/")
    assert health.json()["status"] == "healthy"
    assert health.json()["agent_image"]
    assert health.json()["workers"] == 1
    assert (ready.status_code, live.status_code, root.status_code) == (200, 200, 200)


async def test_not_ready_without_workers() -> None:
    async with running_api(has_worker=False) as api:
        health = await api.http.get("/health")
        ready = await api.http.get("/health/ready")
    assert (health.status_code, health.json()["status"]) == (200, "degraded")
    assert ready.status_code == 503


async def test_ready_while_a_worker_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once no replica was ready in that moment, and the balancer refused everything."""
    async with running_api(has_worker=False) as api:
        async with api.worker.running():
            before = await api.http.get("/health/ready")
        for one in await api.store.workers.alive():
            await api.store.workers.leave(one.worker)
        between = await api.http.get("/health/ready")
        health = await api.http.get("/health")
        monkeypatch.setattr("api.routes.health.WORKERS_AWAY_S", 0.0)
        after = await api.http.get("/health/ready")
    assert health.json()["status"] == "degraded"
    assert [answer.status_code for answer in (before, between, after)] == [200, 200, 503]


async def test_openapi_document_resolves() -> None:
    async with running_api() as api:
        document = (await api.http.get("/openapi.json")).json()
        pages = [await api.http.get(path) for path in ("/docs", "/redoc")]
    # Ours, which has no script, and not the framework's.
    assert [page.status_code for page in pages] == [200, 404]
    assert "<script" not in pages[0].text
    post = document["paths"]["/v1/chat/completions"]["post"]
    schema = post["requestBody"]["content"]["application/json"]["schema"]
    assert schema == {"$ref": "#/components/schemas/ChatRequest"}
    text = json.dumps(document)
    refs = {part.split('"')[0] for part in text.split('"$ref": "#/components/schemas/')[1:]}
    assert refs <= set(document["components"]["schemas"])
    assert "422" not in post["responses"]
