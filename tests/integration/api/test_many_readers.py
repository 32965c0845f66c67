"""Readers cost what they should: one subscription for all, bounded memory for a stuck one."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from typing import Any

import httpx
import pytest

from infra.wire.events import TextDelta
from infra.wire.states import TurnState
from tests.fakes.echo_worker import Gate, Script
from tests.fakes.running_api import KEY, body, real_store, running_api, until
from tests.integration.api.test_streams import StalledReader

STREAMS = 200
BLOCK = "x" * 8000
FLOOD_EVENTS = 4000
"""32 MB."""
HELD_MAX_BYTES = 6 * 1024 * 1024
"""A page of the log, as it is and as chunks, the mailbox, and the connection's own buffers."""

pytestmark = pytest.mark.redis


async def read_to_the_end(http: httpx.AsyncClient, n: int, opened: asyncio.Semaphore) -> str:
    sent = body("hold", stream=True)
    headers = {"x-conversation-id": f"c{n}"}
    text = ""
    async with http.stream("POST", "/v1/chat/completions", json=sent, headers=headers) as answer:
        async for part in answer.aiter_text():
            if "so far" in part:
                opened.release()
            text += part
    return text


@pytest.mark.timeout(120)
async def test_two_hundred_streams_share_one_subscription() -> None:
    held: Script = {"hold": [TextDelta(text="so far"), Gate("rest"), TextDelta(text=" and on")]}
    limits = httpx.Limits(max_connections=None)
    auth = {"authorization": f"Bearer {KEY}"}
    async with (
        real_store() as store,
        running_api(held, store=store) as api,
        httpx.AsyncClient(base_url=api.url, headers=auth, limits=limits, timeout=90) as http,
        asyncio.TaskGroup() as group,
    ):
        opened = asyncio.Semaphore(0)
        streams = [group.create_task(read_to_the_end(http, n, opened)) for n in range(STREAMS)]
        for _ in range(STREAMS):
            await opened.acquire()
        assert api.deps.drain.open_count == STREAMS
        clients: list[dict[str, str]] = await store.redis.client_list()
        subscribers = [c for c in clients if c["name"].endswith("-live")]
        channels = await store.redis.pubsub_channels("test:api:*")
        api.worker.gates["rest"].set()
    assert [c["sub"] for c in subscribers] == ["1"]
    assert len(channels) == 1
    for stream in streams:
        assert " and on" in stream.result()
        assert stream.result().endswith("data: [DONE]\n\n")


@pytest.mark.timeout(120)
async def test_stuck_reader_costs_bounded_memory_and_holds_no_worker() -> None:
    flood: list[Any] = [TextDelta(text=BLOCK)] * FLOOD_EVENTS
    async with (
        real_store() as store,
        running_api({"flood": flood}, store=store, log_every=50) as api,
    ):
        reader = StalledReader(api, "flood")
        gc.collect()
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            await reader.ask()
            async with asyncio.timeout(90):
                assert (await api.worker.ended.get())[1] is TurnState.DONE, "it never waits"
            assert api.deps.drain.open_count == 1, "the reader is there yet"
            # The relay goes on filling what it may, until its send is stuck.
            assert (await api.chat("unhurt")).status_code == 200
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
            reader.close()
        assert held - before < HELD_MAX_BYTES
        await until(lambda: api.deps.drain.open_count == 0)
