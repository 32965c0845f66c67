"""The edge of the API against clients that mean no good: on the wire, byte by byte."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import httpx
import pytest

from api.http.connection import HEAD_MAX_BYTES, BoundedConnection, ConnectionBounds
from api.http.edge import HEADERS_MAX
from infra.wire.events import TextDelta
from tests.fakes.echo_worker import Gate, Script, words
from tests.fakes.running_api import KEY, RunningApi, body, running_api, until
from tests.fakes.sse import parts_of

HELD: Script = {"hold": [TextDelta(text="so far"), Gate("rest")]}
PAGE = "https://chat.example.org"
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()


class Wire:
    """A client's end of a connection, without any manners."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def say(self, *parts: bytes) -> None:
        self.writer.write(b"".join(parts))
        await self.writer.drain()

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """The next whole answer: status, headers, body."""
        async with asyncio.timeout(20):
            status, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines if line)
            content = await self.reader.readexactly(int(headers["content-length"]))
        return int(status.split(" ")[1]), headers, content

    async def refusal(self, status: int, code: str) -> None:
        """The next answer is this one, in the form of all our errors, and the last."""
        found, headers, content = await self.answer()
        assert (found, json.loads(content)["error"]["code"]) == (status, code)
        assert headers["connection"] == "close"
        assert headers["content-type"] == "application/json"
        await self.closed()

    async def refused(self, data: bytes) -> None:
        """The connection takes only so much of it."""
        async with asyncio.timeout(20):
            with suppress(ConnectionError):
                while True:
                    await self.say(data)
                    await asyncio.sleep(0.001)

    async def closed(self) -> None:
        async with asyncio.timeout(20):
            try:
                while await self.reader.read(65536):
                    pass
            except ConnectionResetError:
                pass


@asynccontextmanager
async def wire(api: RunningApi) -> AsyncIterator[Wire]:
    port = int(api.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines of a connection, short enough to wait for."""
    monkeypatch.setattr("api.main.ConnectionBounds", _hurried_bounds)


def _hurried_bounds(connections_max: int) -> ConnectionBounds:
    return ConnectionBounds(head_s=0.3, rest_s=0.3, connections_max=connections_max)


GET = b"GET /health/live HTTP/1.1\r\nhost: x\r\n"


def post(key: str) -> bytes:
    """The head of a request with that key, but for what says its length."""
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"authorization: Bearer " + key.encode() + b"\r\n"
    )


POST = post(KEY)


@pytest.mark.usefixtures("hurried")
async def test_connection_that_says_nothing_is_closed() -> None:
    async with running_api() as api, wire(api) as client:
        await client.closed()


@pytest.mark.usefixtures("hurried")
async def test_slow_head_is_408() -> None:
    async with running_api() as api, wire(api) as client:
        for byte in (b"G", b"E", b"T", b" /health/live HTTP/1.1\r\n", b"x-y: "):
            await client.say(byte)
        await client.refusal(408, "request_timeout")


@pytest.mark.usefixtures("hurried")
async def test_kept_connection_that_dribbles_blank_lines_is_closed() -> None:
    """They begin no request, but ended uvicorn's wait for one: it kept the connection for ever."""
    async with running_api() as api, wire(api) as client:
        await client.say(GET, b"\r\n")
        assert (await client.answer())[0] == 200
        await client.say(b"\r\n")
        await client.closed()


@pytest.mark.usefixtures("hurried")
async def test_rest_of_a_body_nobody_wants_is_read_for_a_while_only() -> None:
    async with running_api() as api, wire(api) as client:
        await client.say(GET, b"content-length: 10000000\r\n\r\n", b"x" * 1000)
        assert (await client.answer())[0] == 200
        await client.refused(b"x" * 1000)


@pytest.mark.usefixtures("hurried")
async def test_kept_connection_serves_request_after_request() -> None:
    async with running_api() as api, wire(api) as client:
        for _ in range(3):
            await client.say(GET, b"content-length: 4\r\n\r\nlate")
            assert (await client.answer())[0] == 200


async def test_endless_head_is_431() -> None:
    path, value, name = b"GET /" + b"x" * 1000, GET + b"x: ", GET + b"x" * 1000
    async with running_api() as api:
        for begun, more in ((path, b"x"), (value, b"x"), (name, b"x"), (GET, b"x: y\r\n")):
            async with wire(api) as client:
                await client.say(begun)
                await client.say(more * (2 * HEAD_MAX_BYTES // len(more)))
                await client.refusal(431, "headers_too_large")


async def test_too_many_headers_are_431() -> None:
    async with running_api() as api:
        many = {f"x-{n}": "y" for n in range(HEADERS_MAX)}
        answer = await api.http.get("/health/live", headers=many)
    assert answer.status_code == 431


async def test_endless_chunk_extension_ends_the_connection() -> None:
    async with running_api() as api, wire(api) as client:
        await client.say(POST, b"transfer-encoding: chunked\r\n\r\n2;x=")
        await client.refused(b"y" * 65536)


async def test_trailers_are_no_headers() -> None:
    """A trailer after the body must not name the conversation, or the caller."""
    content = json.dumps(body("hi")).encode()
    async with running_api() as api, wire(api) as client:
        await client.say(
            POST,
            b"transfer-encoding: chunked\r\n\r\n",
            b"%x\r\n%b\r\n0\r\nx-conversation-id: smuggled\r\n\r\n" % (len(content), content),
        )
        status, headers, _ = await client.answer()
    assert status == 200
    assert "x-conversation-id" not in headers


GARBAGE = [
    b"\x16\x03\x01\x02\x00\x01\x00",
    b"NONSENSE\r\n\r\n",
    b"GET /\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n",
    GET + b"content-length: 3\r\ncontent-length: 4\r\n\r\n",
    GET + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n",
    GET + b"content-length: -1\r\n\r\n",
    GET + b"a b: c\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]


async def test_what_is_no_http_is_400_in_our_form() -> None:
    async with running_api() as api:
        for garbage in GARBAGE:
            async with wire(api) as client:
                await client.say(garbage)
                await client.refusal(400, "invalid_request")


async def test_head_may_come_byte_by_byte_within_its_time() -> None:
    async with running_api() as api, wire(api) as client:
        for byte in GET + b"\r\n":
            await client.say(bytes([byte]))
        assert (await client.answer())[0] == 200


async def test_beyond_its_bound_a_replica_answers_health_only() -> None:
    async with running_api(HELD, settings={"requests_max": 1}) as api:
        async with asyncio.TaskGroup() as group:
            held = group.create_task(api.chat("hold"))
            await until(lambda: api.deps.drain.open_count == 1)
            refused = await api.http.get("/v1/models")
            alive = await api.http.get("/health/live")
            api.worker.gates["rest"].set()
        again = await api.http.get("/v1/models")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "replica_full")
    assert refused.headers["retry-after"] == "1"
    assert [alive.status_code, held.result().status_code, again.status_code] == [200] * 3


async def test_large_bodies_that_come_slowly_fill_no_more_than_their_bound() -> None:
    """Each within its own bound; together they would be the memory of the machine."""
    settings = {"max_body_bytes": 100_000, "bodies_max_bytes": 250_000}
    async with running_api(settings=settings) as api:
        async with AsyncExitStack() as opened, asyncio.TaskGroup() as group:
            slow = [await opened.enter_async_context(wire(api)) for _ in range(5)]
            answers = {group.create_task(client.answer()) for client in slow}
            for number, client in enumerate(slow):
                head = post(f"{KEY}-{number}")
                await client.say(head, b"content-length: 99999\r\n\r\n", b"x" * 60_000)
            [refused], waiting = await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)
            bodiless = await api.http.get("/v1/models")
            for answer in waiting:
                answer.cancel()
        async with asyncio.timeout(20):
            while True:
                again = await api.chat("x" * 90_000)
                if again.status_code != 503:
                    break  # The replica has noticed that the others hung up.
        later = [await api.chat("x" * 90_000) for _ in range(3)]
    status, headers, content = refused.result()
    assert (status, json.loads(content)["error"]["code"]) == (503, "replica_full")
    assert headers["retry-after"] == "1"
    assert bodiless.status_code == 200
    assert [answer.status_code for answer in (again, *later)] == [200] * 4


async def test_one_keys_large_bodies_leave_room_for_another_keys() -> None:
    """Eight bodies of 31 MB by one key, sent slowly, and everybody else was told 503."""
    settings = {"max_body_bytes": 100_000, "bodies_max_bytes": 600_000}
    async with (
        running_api(settings=settings) as api,
        AsyncExitStack() as opened,
        asyncio.TaskGroup() as group,
    ):
        greedy = [await opened.enter_async_context(wire(api)) for _ in range(9)]
        answers = {group.create_task(client.answer()) for client in greedy}
        for client in greedy:
            await client.say(POST, b"content-length: 99999\r\n\r\n", b"x" * 70_000)
        refused: set[asyncio.Task[tuple[int, dict[str, str], bytes]]] = set()
        while len(refused) < 5:
            done, answers = await asyncio.wait(
                answers, return_when=asyncio.FIRST_COMPLETED, timeout=20
            )
            assert done
            refused |= done

        neighbour = {"authorization": f"Bearer {KEY}-neighbour"}
        told = [await api.chat("x" * 60_000, headers=neighbour) for _ in range(3)]
        for answer in answers:
            answer.cancel()
    assert [answer.status_code for answer in told] == [200] * 3
    for answer in refused:
        status, headers, content = answer.result()
        error = json.loads(content)["error"]
        assert (status, error["code"]) == (429, "tenant_limit_exceeded")
        assert "of this key" in error["message"]
        assert headers["retry-after"] == "5"
    assert len(answers) == 4, "of its own it may have half"


async def test_what_a_stream_was_asked_with_is_held_no_more() -> None:
    """It stayed until the answer ended: some large questions, and nobody else could ask."""
    settings = {"max_body_bytes": 100_000, "bodies_max_bytes": 100_000, "commit_after_s": 0}
    async with running_api(HELD, settings=settings) as api, AsyncExitStack() as opened:
        for _ in range(4):
            asked = body("hold", stream=True, unknown="x" * 90_000)
            answer = await opened.enter_async_context(
                api.http.stream("POST", "/v1/chat/completions", json=asked)
            )
            assert answer.status_code == 200
        assert api.deps.drain.open_count == 4


@pytest.mark.parametrize("path", ["//v1/models", "/v1/v1/models", "/models/", "/v1//models/"])
async def test_paths_of_odd_base_urls_are_served_and_not_redirected(path: str) -> None:
    async with running_api() as api:
        assert (await api.http.get(f"{api.url}{path}")).json()["object"] == "list"


async def test_key_survives_a_slash_at_the_end() -> None:
    async with running_api() as api:
        answer = await api.http.post("//v1/chat/completions/", json=body("hi"))
        assert answer.json()["choices"][0]["message"]["content"] == "hi"


async def old_client(api: RunningApi, content: bytes) -> tuple[list[bytes], bytes]:
    """The head's lines and the body of an answer over HTTP/1.0, read until its connection ends."""
    head = POST.replace(b"HTTP/1.1", b"HTTP/1.0") + b"content-length: %d\r\n\r\n" % len(content)
    port = int(api.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(20):
        writer.write(head + content)
        raw = await reader.read()
    writer.close()
    lines, _, said = raw.partition(b"\r\n\r\n")
    return lines.lower().split(b"\r\n"), said


async def test_http_1_0_gets_plain_bodies_that_end_with_the_connection() -> None:
    """It got chunks, which it does not know, and two `Connection` headers."""
    settings = {"ping_interval_s": 0.05, "commit_after_s": 0}
    async with running_api({"go": words("one two")}, settings=settings) as api:
        streamed = await old_client(api, json.dumps(body("go", stream=True)).encode())
        whole = await old_client(api, json.dumps(body("go")).encode())
        refused = await old_client(api, b"{")
    for lines, _ in (streamed, whole, refused):
        assert not [line for line in lines if line.startswith(b"transfer-encoding")]
        assert [line for line in lines if line.startswith(b"connection")] == [b"connection: close"]
    assert parts_of(streamed[1])[-1] == "[DONE]"
    assert json.loads(whole[1])["choices"][0]["message"]["content"] == "one two"
    assert json.loads(refused[1])["error"]["code"] == "invalid_request"


async def test_stream_has_no_connection_header_but_the_servers() -> None:
    async with running_api() as api:
        answer = await api.chat("hi", stream=True)
        assert "connection" not in answer.headers


@pytest.mark.parametrize("origin", ["app://obsidian.md", "chrome-extension://abcdefghijklmnop"])
async def test_app_of_an_allowed_origin_may_call(origin: str) -> None:
    async with running_api(settings={"cors_origins": [origin]}) as api:
        asked = {"origin": origin, "access-control-request-method": "POST"}
        answer = await api.http.options("/v1/chat/completions", headers=asked)
        other = await api.http.get("/v1/models", headers={"origin": "app://other"})
    assert answer.headers["access-control-allow-origin"] == origin
    assert "access-control-allow-origin" not in other.headers


async def test_beyond_twice_its_bound_connections_are_refused() -> None:
    async with (
        running_api(settings={"requests_max": 1}) as api,
        wire(api) as first,
        wire(api) as second,
        wire(api) as third,
    ):
        await third.refusal(503, "replica_full")
        for client in (first, second):
            await client.say(GET, b"\r\n")
            assert (await client.answer())[0] == 200


JSON = "application/json"
NO_PLAIN_JSON: list[dict[str, str]] = [
    {"content-type": "text/plain"},
    {"content-type": "application/x-www-form-urlencoded"},
    {"content-type": "multipart/form-data; boundary=x"},
    {"content-type": f"{JSON}; charset=utf-16"},
    {"content-type": JSON, "content-encoding": "gzip"},
    {"content-type": JSON, "content-encoding": "br, identity"},
]


async def test_body_that_says_it_is_no_plain_json_is_400() -> None:
    content = json.dumps(body("x"))
    async with running_api() as api:
        for headers in NO_PLAIN_JSON:
            answer = await api.http.post("/v1/chat/completions", content=content, headers=headers)
            assert answer.status_code == 400, headers
            assert answer.json()["error"]["param"] in ("Content-Type", "Content-Encoding")
        assert api.worker.requests == []
        for kind in ("", f"{JSON}; charset=UTF-8", "application/x+json"):
            headers = {"content-type": kind, "content-encoding": "identity"}
            answer = await api.http.post("/v1/chat/completions", content=content, headers=headers)
            assert answer.status_code == 200, kind


HURTING = [
    '"x": ' + "[" * 5000 + "]" * 5000,
    '"metadata": ' + '{"a":' * 5000 + "1" + "}" * 5000,
    '"max_tokens": ' + "9" * 1_000_000,
    '"max_tokens": 1e999',
    '"temperature": NaN',
    '"temperature": Infinity',
    '"user": "\x00"',
    '"user": "\udcff"',
]


async def test_json_made_to_hurt_is_400_at_once() -> None:
    async with running_api() as api, asyncio.timeout(20):
        for extra in HURTING:
            content = f"{json.dumps(body('x'))[:-1]}, {extra}}}"
            answer = await api.http.post(
                "/v1/chat/completions", content=content.encode(errors="surrogateescape")
            )
            assert answer.status_code == 400, extra[:40]
            assert answer.json()["error"]["type"] == "invalid_request_error"
        assert api.worker.requests == []


async def test_of_a_doubled_key_the_last_counts() -> None:
    async with running_api() as api:
        content = '{"model": "nobody", ' + json.dumps(body("said last"))[1:]
        answer = await api.http.post("/v1/chat/completions", content=content)
    assert answer.json()["choices"][0]["message"]["content"] == "said last"


async def test_no_url_of_a_request_is_ever_fetched() -> None:
    """A listener on this machine is what a caller would like us to reach for it."""
    callers: list[Any] = []
    listener = await asyncio.start_server(lambda _, w: callers.append(w), "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{port}/secret.png"
    parts: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "image_url", "image_url": url},
        {"type": "image_url", "image_url": {"url": url.upper()}},
        {"type": "file", "file": {"file_data": url}},
        {"type": "file", "file": {"file_url": url}},
        {"type": "input_audio", "input_audio": {"data": url, "format": "wav"}},
    ]
    async with listener, running_api() as api:
        answers = [await api.chat("", messages=[{"role": "user", "content": [p]}]) for p in parts]
        # Fields that mean something elsewhere, in a request that is served.
        await api.chat(
            "look",
            tools=[{"type": "mcp", "server_url": url}],
            metadata={"callback_url": url},
            base_url=url,
            api_base=url,
            headers={"x-forwarded-host": f"127.0.0.1:{port}", "referer": url},
        )
        picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
        served = await api.chat("", messages=[{"role": "user", "content": [picture]}])
    assert [a.status_code for a in answers] == [400] * len(parts)
    assert "data:" in answers[0].json()["error"]["message"]
    assert served.status_code == 200
    assert callers == []


async def test_every_answer_has_the_security_headers() -> None:
    async with running_api() as api:
        answers = [
            await api.http.get("/"),
            await api.http.get("/v1/models"),
            await api.http.get("/openapi.json"),
            await api.http.get("/nowhere"),
            await api.http.get("/v1/sessions", headers={"authorization": ""}),
            await api.chat("hi"),
            await api.chat("hi", stream=True),
        ]
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "no-store" in answer.headers["cache-control"]
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "server" not in answer.headers
        assert "text/html" not in answer.headers["content-type"]


async def preflight(api: RunningApi, origin: str) -> httpx.Response:
    """As a browser asks before openai-node's request."""
    return await api.http.options(
        "/v1/chat/completions",
        headers={
            "origin": origin,
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type,x-stainless-os,x-title",
        },
    )


async def test_pages_of_other_origins_are_told_nothing_by_default() -> None:
    async with running_api() as api:
        asked = await preflight(api, PAGE)
        called = await api.chat("hi", headers={"origin": PAGE})
    assert asked.status_code == 405
    for answer in (asked, called):
        assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_pages_of_named_origins_may_call_without_credentials() -> None:
    async with running_api(settings={"cors_origins": [PAGE]}) as api:
        asked = await preflight(api, PAGE)
        called = await api.chat("hi", headers={"origin": PAGE})
        refused = await api.chat("hi", headers={"origin": PAGE, "authorization": ""})
        strange = await preflight(api, "https://chat.example.org.evil.org")
        strange_call = await api.chat("hi", headers={"origin": "https://evil.org"})
    assert asked.status_code == 200
    assert asked.headers["access-control-allow-origin"] == PAGE
    assert "x-stainless-os" in asked.headers["access-control-allow-headers"]
    assert called.headers["access-control-allow-origin"] == PAGE
    assert "x-request-id" in called.headers["access-control-expose-headers"]
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == PAGE
    for answer in (asked, called):
        assert "access-control-allow-credentials" not in answer.headers
    assert strange.status_code == 400
    assert strange.json()["error"]["type"] == "invalid_request_error"
    for answer in (strange, strange_call):
        assert "access-control-allow-origin" not in answer.headers


async def test_path_cannot_write_lines_into_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="api.http.edge")
    async with running_api() as api:
        await api.http.get("/x%0Aanswered%20status=200%1b[31m")
    (told,) = [record for record in caplog.records if record.name == "api.http.edge"]
    path = told.__dict__["agc_fields"]["path"]
    assert path == "/x%0Aanswered%20status=200%1b[31m"


async def test_a_link_to_a_file_is_not_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """It opens the file without a key."""
    caplog.set_level(logging.INFO, logger="api.http.edge")
    async with running_api() as api:
        await api.http.get("/v1/artifacts/a-token/salary-of-anna.pdf")
    (told,) = [record for record in caplog.records if record.name == "api.http.edge"]
    assert told.__dict__["agc_fields"]["path"] == "/v1/artifacts/…"


def test_bounds_are_on_in_every_replica() -> None:
    assert BoundedConnection.bounds.head_s <= 30
    assert BoundedConnection.bounds.rest_s <= 30
