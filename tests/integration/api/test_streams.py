"""What happens to open answers: clients that leave or stall, silence, shutdown."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import time
from typing import Any

import httpx
import pytest

from api.http.connection import BoundedConnection
from infra.wire.errors import ErrorCode
from infra.wire.events import TextDelta, ThinkingDelta
from infra.wire.ids import TurnId
from infra.wire.states import TurnState
from tests.fakes.echo_worker import Gate, Pause, Script, failure, words
from tests.fakes.running_api import KEY, RunningApi, body, running_api, until

HELD: Script = {"hold": [TextDelta(text="so far"), Gate("rest"), TextDelta(text=" and on")]}


async def open_until(api: RunningApi, prompt: str, needle: bytes, **headers: str) -> httpx.Response:
    """Start a stream and read up to `needle`; the caller closes it."""
    request = api.http.build_request(
        "POST", "/v1/chat/completions", json=body(prompt, stream=True), headers=headers
    )
    answer = await api.http.send(request, stream=True)
    await read_until(answer, needle)
    return answer


async def read_until(answer: httpx.Response, needle: bytes) -> bytes:
    seen = b""
    stream = answer.stream
    assert isinstance(stream, httpx.AsyncByteStream)
    iterator = answer.extensions.setdefault("test_iterator", stream.__aiter__())
    while needle not in seen:
        seen += await anext(iterator)
    return seen


async def rest_of(answer: httpx.Response) -> bytes:
    return b"".join([part async for part in answer.extensions["test_iterator"]])


async def test_hang_up_in_mid_stream_cancels_the_turn() -> None:
    async with running_api(HELD) as api:
        answer = await open_until(api, "hold", b"so far")
        await answer.aclose()
        async with asyncio.timeout(10):
            assert (await api.worker.ended.get())[1] is TurnState.CANCELLED
        assert api.deps.drain.open_count == 0


async def test_conversation_is_free_again_after_a_hang_up() -> None:
    async with running_api(HELD) as api:
        name = {"x-conversation-id": "c"}
        answer = await open_until(api, "hold", b"so far", **name)
        await answer.aclose()
        async with asyncio.timeout(10):
            assert (await api.chat("next", headers=name)).status_code == 200


@pytest.mark.parametrize("stream", [True, False])
async def test_hang_up_before_the_first_byte_cancels_the_turn(stream: bool) -> None:
    async with running_api({"hold": [Gate("never")]}) as api:
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(api.chat("hold", stream=stream))
            await until(lambda: api.worker.requests)
            asking.cancel()
        async with asyncio.timeout(10):
            assert (await api.worker.ended.get())[1] is TurnState.CANCELLED


async def test_hang_up_while_queued_cancels_the_turn() -> None:
    async with running_api(has_worker=False, settings={"commit_after_s": 0}) as api:
        answer = await open_until(api, "x", b"assistant")
        (turn,) = [k for k in await api.store.redis.keys("test:turn:*") if k.count(b":") == 2]
        await answer.aclose()
        await until(lambda: api.deps.drain.open_count == 0)
        await api.deps.deferred.settled()
        record = await api.store.turns.get(TurnId(turn.decode().removeprefix("test:turn:")))
        assert record is not None
        assert record.state is TurnState.CANCELLED


async def test_an_open_stream_holds_neither_its_request_nor_its_key() -> None:
    """A thousand of them are open at a time, most of them silent."""
    async with running_api(HELD) as api:
        answer = await open_until(api, "hold", b"so far")
        open_ones = [
            one
            for one in gc.get_objects()
            if isinstance(one, BoundedConnection) and not one.cycle.response_complete
        ]
        held = [[*one.headers, *one.scope["headers"]] for one in open_ones]
        api.worker.gates["rest"].set()
        assert b"[DONE]" in await rest_of(answer)
        await answer.aclose()
    assert held == [[]]


async def test_turn_goes_on_without_its_client_when_asked_to() -> None:
    async with running_api(HELD) as api:
        answer = await open_until(api, "hold", b"so far", **{"x-on-disconnect": "continue"})
        await answer.aclose()
        await until(lambda: api.deps.drain.open_count == 0)
        await api.deps.deferred.settled()
        api.worker.gates["rest"].set()
        async with asyncio.timeout(10):
            assert (await api.worker.ended.get())[1] is TurnState.DONE


async def test_turn_that_another_client_reads_survives_a_hang_up() -> None:
    again = {"x-conversation-id": "c", "x-message-id": "m"}
    async with running_api(HELD) as api:
        first = await open_until(api, "hold", b"so far", **again)
        second = await open_until(api, "hold", b"so far", **again)
        await first.aclose()
        await until(lambda: api.deps.drain.open_count == 1)
        await api.deps.deferred.settled()
        api.worker.gates["rest"].set()
        assert b"[DONE]" in await rest_of(second)
        await second.aclose()


async def test_silent_stream_is_pinged_with_comments_only() -> None:
    settings = {"ping_interval_s": 0.05, "commit_after_s": 0}
    async with running_api({"hold": [Gate("rest"), *words("at last")]}, settings=settings) as api:
        answer = await open_until(api, "hold", b": ping\n\n: ping\n\n")
        api.worker.gates["rest"].set()
        assert b"[DONE]" in await rest_of(answer)
        await answer.aclose()


async def test_pings_do_not_come_between_frequent_events() -> None:
    settings = {"ping_interval_s": 0.5}
    script: Script = {
        "go": [step for n in range(20) for step in (TextDelta(text=str(n)), Pause(0.05))]
    }
    async with running_api(script, settings=settings) as api:
        assert b"ping" not in (await api.chat("go", stream=True)).content


async def test_official_client_reads_over_pings() -> None:
    settings = {"ping_interval_s": 0.05, "commit_after_s": 0}
    script: Script = {"go": [Pause(0.3), TextDelta(text="a"), Pause(0.3), TextDelta(text="b")]}
    async with running_api(script, settings=settings) as api, api.openai() as client:
        stream = await client.chat.completions.create(
            model="claude-sonnet-4.5", messages=[{"role": "user", "content": "go"}], stream=True
        )
        assert "".join([c.choices[0].delta.content or "" async for c in stream]) == "ab"


async def test_status_waits_for_the_agents_first_sight_and_no_longer() -> None:
    script: Script = {
        "late": [
            Pause(0.3),
            failure(ErrorCode.OVERLOADED),
        ],
        "quick": [ThinkingDelta(text="hm"), Gate("never")],
    }
    async with running_api(script, settings={"commit_after_s": 0.1}) as api:
        late = await api.chat("late", stream=True)
        async with asyncio.timeout(5):
            quick = await open_until(api, "quick", b"hm")
        await quick.aclose()
    assert late.status_code == 200
    assert json.loads(late.text.split("data: ")[-1])["error"]["code"] == "upstream_overloaded"


async def test_shutdown_lets_answers_finish_within_the_grace() -> None:
    async with running_api(HELD, settings={"drain_timeout_s": 20}) as api:
        answer = await open_until(api, "hold", b"so far")
        api.stop.set()
        await until(lambda: api.deps.drain.is_closed)
        await until_refused(api.url)
        api.worker.gates["rest"].set()
        rest = await rest_of(answer)
        await answer.aclose()
    assert b"and on" in rest
    assert rest.endswith(b"data: [DONE]\n\n")


async def until_refused(url: str) -> None:
    """New connections are refused once the listener is closed.

    One that is kept alive is not new: it may have been accepted in the very moment of the shutdown,
    and is served until it is told to close.
    """
    async with asyncio.timeout(20), httpx.AsyncClient(headers={"connection": "close"}) as http:
        while True:
            try:
                await http.get(f"{url}/health/live")
            except httpx.TransportError:
                return


async def test_requests_are_served_until_balancers_have_noticed() -> None:
    settings = {"drain_timeout_s": 8, "drain_notice_s": 4}
    async with running_api(settings=settings) as api:
        api.stop.set()
        await until(lambda: api.deps.drain.is_draining)
        ready = await api.http.get("/health/ready")
        served = await api.chat("still served")
        assert not api.deps.drain.is_closed
        # The notice is a part of the time, never all of it; here nobody waits for it.
        api.deps.drain.close()
        refused = await api.chat("too late")
    assert ready.status_code == 503
    assert served.status_code == 200
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "shutting_down"


async def test_a_replica_that_nothing_holds_leaves_at_once() -> None:
    """A client's connection that is kept alive between requests is nothing to wait for."""
    settings = {"drain_timeout_s": 20, "drain_notice_s": 0}
    async with running_api(settings=settings) as api:
        await api.chat("hello")
        began = time.monotonic()
        api.stop.set()
    assert time.monotonic() - began < 10


async def test_readiness_goes_off_before_anything_else() -> None:
    async with running_api(settings={"drain_timeout_s": 20}) as api:
        api.deps.drain.begin()
        ready = await api.http.get("/health/ready")
        served = await api.chat("still served")
    assert (ready.status_code, ready.json()["status"]) == (503, "draining")
    assert served.status_code == 200


async def test_answers_beyond_the_grace_end_with_a_clean_error_and_their_id() -> None:
    async with running_api(HELD, settings={"drain_timeout_s": 0.2}) as api:
        answer = await open_until(api, "hold", b"so far")
        api.stop.set()
        rest = await rest_of(answer)
        await answer.aclose()
        api.worker.gates["rest"].set()
        async with asyncio.timeout(10):
            assert (await api.worker.ended.get())[1] is TurnState.DONE, "the turn goes on"
    told = json.loads(rest.split(b"data: ")[-1])
    assert told["error"]["code"] == "shutting_down"
    assert told["id"].startswith("chatcmpl-")
    assert b"[DONE]" not in rest


async def test_whole_answers_beyond_the_grace_are_503() -> None:
    async with running_api(HELD, settings={"drain_timeout_s": 0.2}) as api:
        async with asyncio.TaskGroup() as group:
            asked = group.create_task(api.chat("hold"))
            await until(lambda: api.deps.drain.open_count == 1)
            api.stop.set()
        api.worker.gates["rest"].set()
    assert asked.result().status_code == 503
    assert asked.result().json()["error"]["code"] == "shutting_down"


class StalledReader:
    """A client that asks and then reads nothing."""

    def __init__(self, api: RunningApi, prompt: str) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        content = json.dumps(body(prompt, stream=True)).encode()
        self._request = (
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-api-key: %b\r\n"
            b"content-length: %d\r\n\r\n%b" % (KEY.encode(), len(content), content)
        )
        self._address = ("127.0.0.1", int(api.url.rpartition(":")[2]))

    async def ask(self) -> None:
        self._socket.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(self._socket, self._address)
        await loop.sock_sendall(self._socket, self._request)

    def close(self) -> None:
        self._socket.close()


async def test_stalled_reader_is_dropped_and_its_turn_cancelled() -> None:
    block = "x" * 8000
    flood: list[Any] = [TextDelta(text=block)] * 1500 + [Gate("never")]
    settings = {"send_timeout_s": 0.5, "ping_interval_s": 0.2}
    async with running_api({"flood": flood}, settings=settings, log_every=50) as api:
        reader = StalledReader(api, "flood")
        try:
            await reader.ask()
            async with asyncio.timeout(30):
                assert (await api.worker.ended.get())[1] is TurnState.CANCELLED
            await until(lambda: api.deps.drain.open_count == 0)
            assert (await api.chat("unhurt")).status_code == 200
        finally:
            reader.close()


async def test_slow_reader_gets_every_event_and_holds_bounded_memory() -> None:
    """The relay falls behind its bounded mailbox and makes up for it from the log."""
    count = 3000
    flood = [TextDelta(text=f"{n}:{'x' * 500} ") for n in range(count)]
    async with running_api({"flood": flood}, log_every=50) as api:
        answer = await open_until(api, "flood", b"0:x")
        async with asyncio.timeout(30):
            await api.worker.ended.get()
        rest = await rest_of(answer)
        await answer.aclose()
    numbers = [
        int(json.loads(line[6:])["choices"][0]["delta"]["content"].split(":")[0])
        for line in rest.decode().split("\n")
        if '"content":"' in line and ":x" in line and line.startswith("data: ")
    ]
    assert numbers == list(range(numbers[0], count))
    assert rest.endswith(b"data: [DONE]\n\n")
