"""API, worker and agents on a Redis that fails over under their streams."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from infra.store.connection import connect
from infra.store.open import store_on
from tests.fakes.redis_sentinel import SentinelCluster, sentinels
from tests.fakes.running_api import RunningApi, body, running_api
from tests.fakes.worker_stage import Stage

pytestmark = [pytest.mark.redis, pytest.mark.timeout(240)]

COUNT = 400
STREAMS = 4
RECOVERED_S = 20.0


@dataclass
class Told:
    """What a client was told."""

    numbers: list[int] = field(default_factory=list)
    error: str | None = None
    is_done: bool = False
    is_under_way: asyncio.Event = field(default_factory=asyncio.Event)

    def judge(self) -> None:
        """Complete, or broken off with an error; never a gap, a double or a silence."""
        assert self.numbers == list(range(len(self.numbers)))
        assert self.is_done != bool(self.error), self
        assert self.error or len(self.numbers) == COUNT


async def listen(api: RunningApi, conversation: str, told: Told) -> None:
    """A numbered stream to its end."""
    request = body(f"stream {COUNT} every 10 ms", stream=True)
    headers = {"X-Conversation-ID": conversation}
    async with api.http.stream(
        "POST", "/v1/chat/completions", json=request, headers=headers
    ) as answer:
        assert answer.status_code == 200
        async for line in answer.aiter_lines():
            if line == "data: [DONE]":
                told.is_done = True
            elif line.startswith("data: "):
                _note(json.loads(line[6:]), told)


def _note(chunk: dict[str, object], told: Told) -> None:
    if "error" in chunk:
        told.error = str(chunk["error"])
        return
    choices: list[dict[str, dict[str, str]]] = chunk.get("choices", [])  # type: ignore[assignment]
    for choice in choices:
        for word in choice["delta"].get("content", "").split():
            told.numbers.append(int(word.split("@")[0]))
    if len(told.numbers) > 20:
        told.is_under_way.set()


@asynccontextmanager
async def cluster_on(redis: SentinelCluster) -> AsyncIterator[tuple[RunningApi, Stage]]:
    """An API replica and a worker, each with its own connections."""
    mine = connect(redis.url, timeout_s=2, name="test-worker")
    other = connect(redis.url, timeout_s=2, name="test-api")
    try:
        async with Stage(mine) as stage:
            store = store_on(other, stage.keys)
            async with running_api(store=store, has_worker=False) as api:
                await stage.worker()
                yield api, stage
    finally:
        await mine.aclose()
        await other.aclose()


@pytest.mark.parametrize("trouble", ["killed while the replica lagged", "frozen"])
async def test_streams_outlive_a_failover_or_fail_visibly(trouble: str) -> None:
    async with sentinels() as redis, cluster_on(redis) as (api, stage):
        told = [Told() for _ in range(STREAMS)]
        async with asyncio.timeout(120), asyncio.TaskGroup() as group:
            for i, one in enumerate(told):
                group.create_task(listen(api, f"c{i}", one))
            for one in told:
                await one.is_under_way.wait()
            began = time.monotonic()
            old = await _act_out(redis, trouble)
            await redis.failed_over()
            if trouble == "frozen":
                redis.thaw(old)
            await _until_a_turn_works(api)
            recovered_s = time.monotonic() - began
        for one in told:
            one.judge()
        complete = sum(one.is_done for one in told)
        print(f"{trouble}: new turns after {recovered_s:.1f} s, {complete} of {STREAMS} complete")
        assert recovered_s < RECOVERED_S
        assert all(len(agents) == 1 for agents in stage.agents.values()), "tools ran once"


async def _act_out(redis: SentinelCluster, trouble: str) -> int:
    if trouble == "frozen":
        return redis.freeze_primary()
    await redis.cut_replica_off()
    await asyncio.sleep(0.6)  # What is written meanwhile will be lost.
    return await redis.kill_primary()


async def _until_a_turn_works(api: RunningApi) -> None:
    async with asyncio.timeout(2 * RECOVERED_S):
        while True:
            answer = await api.chat("echo again", headers={"X-Conversation-ID": "fresh"})
            if answer.status_code == 200:
                return
            assert answer.status_code == 503, answer.text
            assert int(answer.headers["retry-after"]) >= 1
            await asyncio.sleep(0.1)
