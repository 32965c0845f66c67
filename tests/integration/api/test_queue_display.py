"""A stream that waits shows its place in the queue."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from infra.wire.states import TurnState
from tests.fakes.running_api import RunningApi, running_api, until
from tests.fakes.sse import blocks_of
from tests.integration.api.test_streams import open_until, read_until


@asynccontextmanager
async def crowded(**settings: Any) -> AsyncIterator[RunningApi]:
    """No worker, and two turns wait already."""
    chosen = {"commit_after_s": 0, "ping_interval_s": 0.2, "drain_timeout_s": 0.1} | settings
    async with running_api(has_worker=False, settings=chosen) as api:
        others = [
            await open_until(api, f"before {n}", b"assistant", **{"x-conversation-id": f"c{n}"})
            for n in range(2)
        ]
        try:
            yield api
        finally:
            for answer in others:
                await answer.aclose()
            await until(lambda: api.deps.drain.open_count == 0)


async def test_waiting_stream_tells_its_place_in_comments_with_every_ping() -> None:
    async with crowded() as api:
        waiting = await open_until(api, "last", b"2 turns ahead\n\n: queued, 2 turns ahead\n\n")
        await waiting.aclose()


async def test_waiting_stream_tells_its_place_once_as_reasoning() -> None:
    async with crowded(queue_display="reasoning") as api:
        waiting = await open_until(api, "last", b"assistant")
        seen = await read_until(waiting, b"Waiting: 2 turns ahead.")
        seen += await read_until(waiting, b": ping\n\n: ping\n\n")
        await waiting.aclose()
    assert seen.count(b"Waiting") == 1
    line = next(line for line in seen.split(b"\n") if b"Waiting" in line)
    delta = json.loads(line.removeprefix(b"data: "))["choices"][0]["delta"]
    assert delta == {"reasoning_content": "Waiting: 2 turns ahead.\n"}


async def test_waiting_stream_only_pings_where_the_place_is_not_to_be_shown() -> None:
    async with crowded(queue_display="off") as api:
        waiting = await open_until(api, "last", b"assistant")
        seen = await read_until(waiting, b": ping\n\n" * 8)
        await waiting.aclose()
    assert b"ahead" not in seen


@pytest.mark.parametrize("display", ["comment", "reasoning"])
async def test_official_client_reads_over_its_place(display: str) -> None:
    async with crowded(queue_display=display) as api, api.openai() as client:
        stream = await client.chat.completions.create(
            model="claude-sonnet-4.5", messages=[{"role": "user", "content": "x"}], stream=True
        )
        turn = (await anext(stream)).id
        if display == "reasoning":
            told = (await anext(stream)).choices[0].delta
            assert told.model_extra == {"reasoning_content": "Waiting: 2 turns ahead.\n"}
        else:
            await asyncio.sleep(1.5)  # Comments come meanwhile, and show in no chunk.
        await stream.close()
        assert turn.startswith("chatcmpl-")


async def test_followers_see_the_place_and_whole_answers_none() -> None:
    async with crowded() as api, asyncio.TaskGroup() as group:
        whole = group.create_task(api.chat("whole", headers={"x-conversation-id": "mine"}))
        await until(lambda: api.deps.drain.open_count == 3)
        (turn,) = (await api.http.get("/v1/sessions/mine")).json()["turn_ids"]
        path = f"/v1/chat/completions/{turn}"
        async with api.http.stream("GET", path, params={"stream": "true"}) as following:
            async for line in following.aiter_lines():
                if line == ": queued, 2 turns ahead":
                    break
        cancelled = await api.http.post(f"{path}/cancel")
    assert cancelled.json()["state"] == TurnState.CANCELLED
    assert whole.result().status_code == 409
    assert "ahead" not in whole.result().text


async def test_stream_that_has_begun_says_nothing_of_a_queue() -> None:
    async with running_api() as api:
        answer = await api.chat("hello there", stream=True)
    assert b"queued" not in answer.content
    assert blocks_of(answer.content)[-1].data == "[DONE]"
