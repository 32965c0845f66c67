"""Requests that two readers may read differently, byte by byte on the model socket."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path

import pytest

from infra.wire.socket_folder import MODEL_SOCKET
from tests.fakes.held_threads import held_threads
from tests.fakes.scripted_model import RunningModel
from tests.integration.gateway.conftest import KEY, PATIENCE_S, Host, HostMaker, agent_at, asking
from worker.gateway.model.proxy import ModelLimits

BODY = json.dumps(asking("echo hi")).encode()


async def statuses(folder: Path, raw: bytes) -> list[int]:
    """The status of each answer that some bytes get."""
    reader, writer = await asyncio.open_unix_connection(folder / MODEL_SOCKET)
    try:
        async with asyncio.timeout(PATIENCE_S):
            writer.write(raw)
            said = await reader.read()
    finally:
        writer.close()
    lines = said.split(b"\r\n")
    return [int(line.split()[1]) for line in lines if line.startswith(b"HTTP/1.")]


def request(target: str, *headers: str, body: bytes = BODY, method: str = "POST") -> bytes:
    head = [f"{method} {target} HTTP/1.1", "Host: x", *headers]
    if not any(h.lower().startswith(("content-length", "transfer-encoding")) for h in headers):
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*head, "Connection: close", "", ""]).encode() + body


@pytest.mark.parametrize(
    "target",
    [
        "//v1/messages",
        "/v1//messages",
        "/v1/./messages",
        "/v1/x/../messages",
        "/v1/messages/",
        "/v1/messages%2e",
        "/v1%2fmessages",
        "/v1/messages;x=1",
        "/v1/messages#/v1/messages",
        "/v1/messages?beta=true&key=sk-ant-mine",
        "/v1/messages?beta=true%26x=1",
        "/v1/messages?",
        "http://evil.example/v1/messages",
        "http://x/v1/messages",
        "*",
    ],
)
async def test_no_other_spelling_of_a_path_passes(
    host: Host, model: RunningModel, target: str
) -> None:
    folder = await host.open_session()
    await host.open_turn()
    found = await statuses(folder, request(target))
    assert found
    assert all(status in (400, 403) for status in found)
    assert model.journal.entries == []


@pytest.mark.parametrize(
    "headers",
    [
        ("Content-Length: 5", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked", "Transfer-Encoding: identity"),
        ("Content-Length: 5", "Content-Length: 6"),
        ("Content-Length: +5",),
        ("Content-Length : 5",),
        ("Connection: Upgrade", "Upgrade: websocket"),
        ("Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"),
        ("Content-Encoding: gzip",),
        ("X-Folded: a\r\n b",),
    ],
)
async def test_framing_that_can_be_read_in_two_ways_is_refused(
    host: Host, model: RunningModel, headers: tuple[str, ...]
) -> None:
    folder = await host.open_session()
    await host.open_turn()
    found = await statuses(folder, request("/v1/messages", *headers))
    assert found
    assert all(400 <= status < 500 for status in found)
    assert model.journal.entries == []


@pytest.mark.parametrize("method", ["GET", "PUT", "CONNECT", "OPTIONS", "TRACE", "PRI", "post"])
async def test_no_other_method_passes(host: Host, model: RunningModel, method: str) -> None:
    folder = await host.open_session()
    await host.open_turn()
    found = await statuses(folder, request("/v1/messages", method=method))
    assert all(400 <= status < 500 for status in found)
    assert model.journal.entries == []


async def test_a_header_that_asks_for_another_method_or_place_stays_here(
    host: Host, model: RunningModel
) -> None:
    folder = await host.open_session()
    await host.open_turn()
    sent = {
        "x-http-method-override": "DELETE",
        "x-original-url": "/v1/files",
        "x-rewrite-url": "/v1/files",
        "x-forwarded-host": "evil.example",
        "anthropic-api-key": "sk-ant-mine",
        "anthropic-auth-token": "mine",
        "x-stainless-api-key": "sk-ant-mine",
        "x-anything": "goes",
    }
    async with (
        agent_at(folder) as agent,
        agent.post("/v1/messages", json=asking("key", stream=False), headers=sent) as answer,
    ):
        said = (await answer.json())["content"][0]["text"]
    assert said == f"x-api-key={KEY} auth=None"
    assert not set(sent) & set(model.journal.entries[-1].headers)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"model":"claude-a","model":"claude-b"}', 400),
        (b'{"model":"claude-b","\\u006dodel":"claude-a"}', 400),
        (b'{"model":["claude-a"]}', 400),
        (b'{"messages":[{"model":"claude-a"}]}', 400),
        (b'[{"model":"claude-a"}]', 400),
        (b'{"model":"claude-a"}{"model":"claude-b"}', 400),
        (b'{"model":"claude-a","mcp_servers":[{"url":"https://evil.example"}]}', 400),
        (
            b'{"model":"claude-a","system":{"source":{"type":"url","url":"https://evil.example"}}}',
            403,
        ),
        (b'{"model":"claude-a","x":' + b"[" * 50_000 + b"]" * 50_000 + b"}", 400),
        (b"\xff\xfe", 400),
        (b"", 400),
        (b'{"model":"claude-b"}', 403),
        (b'{"model":"CLAUDE-A"}', 403),
    ],
)
async def test_the_model_is_the_one_that_the_upstream_would_read(
    host: Host, model: RunningModel, body: bytes, status: int
) -> None:
    folder = await host.open_session()
    await host.open_turn(models=("claude-a",))
    async with (
        agent_at(folder) as agent,
        agent.post("/v1/messages", data=body) as answer,
    ):
        assert answer.status == status
        assert answer.headers["x-should-retry"] == "false"
        assert (await answer.json())["type"] == "error"
    assert model.journal.entries == []


async def test_models_of_the_settings_count_where_a_turn_names_none(
    make_host: HostMaker, model: RunningModel
) -> None:
    limits = ModelLimits(models=frozenset({"claude-a"}))
    host = make_host(upstream_url=model.url, model_limits=limits)
    async with host.gateway():
        folder = await host.open_session()
        await host.open_turn()
        async with agent_at(folder) as agent:
            for name, status in (("claude-a", 200), ("claude-b", 403)):
                body = asking("echo hi", model=name)
                async with agent.post("/v1/messages", json=body) as answer:
                    assert answer.status == status


async def test_calls_beyond_the_rate_wait_and_are_then_refused_for_a_while(
    make_host: HostMaker, model: RunningModel
) -> None:
    limits = ModelLimits(calls_per_minute=2, rate_wait_s=0.05)
    host = make_host(upstream_url=model.url, model_limits=limits)
    async with host.gateway():
        folder = await host.open_session()
        await host.open_turn()
        async with agent_at(folder) as agent:
            found = []
            for _ in range(3):
                async with agent.post("/v1/messages", json=asking("echo hi")) as answer:
                    found.append(answer.status)
                    await answer.read()
    assert found == [200, 200, 429]
    assert answer.headers["x-should-retry"] == "true"
    assert "retry-after" in answer.headers


async def test_calls_and_bytes_at_once_are_bounded(
    make_host: HostMaker, model: RunningModel
) -> None:
    limits = ModelLimits(calls_max=2, body_max_bytes=10_000)
    host = make_host(upstream_url=model.url, model_limits=limits)
    async with host.gateway():
        folder = await host.open_session()
        await host.open_turn()
        async with agent_at(folder) as agent:
            hanging = [
                await agent.post("/v1/messages", json=asking("hang after 1")) for _ in range(2)
            ]
            async with agent.post("/v1/messages", json=asking("echo hi")) as answer:
                assert answer.status == 429
                assert (await answer.json())["error"]["type"] == "rate_limit_error"
            for call in hanging:
                call.close()


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 302 Found\r\nLocation: http://evil.example/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx",
        b"HTTP/1.1 nonsense\r\n\r\n",
        b"\x00\x01\x02",
    ],
)
async def test_an_upstream_that_misbehaves_is_a_502_and_tells_nobody_the_key(
    make_host: HostMaker, head: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    host = make_host(upstream_url=f"http://127.0.0.1:{port}")
    asyncio.get_running_loop().set_debug(True)
    async with server, host.gateway():
        folder = await host.open_session()
        await host.open_turn()
        async with (
            agent_at(folder) as agent,
            agent.post("/v1/messages", json=asking("echo hi")) as answer,
        ):
            assert answer.status == 502
            assert KEY not in await answer.text()
    assert KEY not in "".join(f"{r.getMessage()} {vars(r)}" for r in caplog.records)


async def test_a_body_that_does_not_come_is_given_up(
    make_host: HostMaker, model: RunningModel
) -> None:
    limits = ModelLimits(agent_silence_s=0.1)
    host = make_host(upstream_url=model.url, model_limits=limits)
    async with host.gateway():
        folder = await host.open_session()
        await host.open_turn()
        reader, writer = await asyncio.open_unix_connection(folder / MODEL_SOCKET)
        writer.write(b"POST /v1/messages HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        async with asyncio.timeout(PATIENCE_S):
            assert b" 408 " in await reader.readline()
        writer.close()


async def test_what_is_refused_costs_an_agent_its_rate_by_the_megabyte(
    make_host: HostMaker, model: RunningModel
) -> None:
    """28 MB a call, refused and free: the gateway had time for nobody else."""
    limits = ModelLimits(calls_per_minute=20, rate_wait_s=0.05)
    host = make_host(upstream_url=model.url, model_limits=limits)
    async with host.gateway():
        folder = await host.open_session()
        await host.open_turn()
        refused = b'{"model":"m","unknown":"' + b"x" * 15 * 1024 * 1024 + b'"}'
        async with agent_at(folder) as agent:
            statuses = []
            for _ in range(3):
                async with agent.post("/v1/messages", data=io.BytesIO(refused)) as answer:
                    statuses.append(answer.status)
    assert statuses == [400, 400, 429]


async def test_large_bodies_of_all_agents_have_one_bound(
    make_host: HostMaker, model: RunningModel
) -> None:
    limits = ModelLimits(body_max_bytes=400_000, bodies_max_bytes=500_000)
    host = make_host(upstream_url=model.url, model_limits=limits)
    async with host.gateway():
        folder = await host.open_session()
        await host.open_turn()
        # One that sends the beginning of a large body, and no more.
        _, slow = await asyncio.open_unix_connection(folder / MODEL_SOCKET)
        slow.write(request("/v1/messages", "Content-Length: 400000", body=b"{"))
        large = asking("echo x", stream=False) | {"system": "x" * 200_000}
        async with agent_at(folder) as agent, asyncio.timeout(PATIENCE_S):
            status = 200
            while status == 200:  # Until the gateway has read the other's head.
                async with agent.post("/v1/messages", json=large) as answer:
                    status = answer.status
            async with agent.post("/v1/messages", json=asking("echo x", stream=False)) as small:
                assert small.status == 200
        slow.close()
    assert status == 529
    assert answer.headers["x-should-retry"] == "true"


@pytest.mark.parametrize(
    ("limits", "status"),
    [
        (ModelLimits(body_max_bytes=400_000, bodies_max_bytes=500_000), 529),
        (ModelLimits(calls_max=1), 429),
    ],
    ids=["bodies", "calls"],
)
async def test_an_agent_that_hangs_up_keeps_its_places_until_its_body_is_read(
    make_host: HostMaker, model: RunningModel, limits: ModelLimits, status: int
) -> None:
    """A thread cannot be interrupted: agents that hung up at once had any number at work."""
    host = make_host(upstream_url=model.url, model_limits=limits)
    large = asking("echo x", stream=False) | {"system": "x" * 300_000}
    async with host.gateway(), asyncio.timeout(PATIENCE_S):
        folder = await host.open_session()
        await host.open_turn()
        with held_threads() as threads:
            _, gone = await asyncio.open_unix_connection(folder / MODEL_SOCKET)
            gone.write(request("/v1/messages", body=json.dumps(large).encode()))
            await threads.asked.wait()
            gone.close()
            await gone.wait_closed()
            async with agent_at(folder) as agent:
                for _ in range(20):  # Long enough for the gateway to see that the other is gone.
                    async with agent.post("/v1/messages", json=large) as refused:
                        assert refused.status == status
                threads.let_go()
                while refused.status == status:  # Until the thread has ended.
                    async with agent.post("/v1/messages", json=large) as refused:
                        pass
    assert refused.status == 200
