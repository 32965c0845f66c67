"""An API replica, a worker and scripted agents on one Redis, and clients that count."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from infra.store.open import store_on
from infra.store.server.connection import connect
from tests.fakes.running_api import RunningApi, body, running_api
from tests.fakes.worker_stage import Stage

RECOVERED_S = 20.0
"""New turns work again within this."""
COUNT = 400


@dataclass
class Told:
    """What a client was told."""

    count: int = COUNT
    numbers: list[int] = field(default_factory=list)
    error: str | None = None
    is_done: bool = False
    is_under_way: asyncio.Event = field(default_factory=asyncio.Event)

    def judge(self) -> None:
        """Complete, or broken off with an error; never a gap, a double or a silence."""
        assert self.numbers == list(range(len(self.numbers)))
        assert self.is_done != bool(self.error), self
        assert self.error or len(self.numbers) == self.count


async def listen(api: RunningApi, conversation: str, told: Told) -> None:
    """A numbered stream to its end."""
    request = body(f"stream {told.count} every 10 ms", stream=True)
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
async def cluster_on(
    url: str, *, api_url: str | None = None, prefix: str = "test"
) -> AsyncIterator[tuple[RunningApi, Stage]]:
    """An API replica and a worker, each with its own connections."""
    mine = connect(url, timeout_s=2, name="test-worker")
    other = connect(api_url or url, timeout_s=2, name="test-api")
    try:
        async with Stage(mine, prefix=prefix) as stage:
            store = store_on(other, stage.keys)
            async with running_api(store=store, has_worker=False) as api:
                await stage.worker()
                yield api, stage
    finally:
        await mine.aclose()
        await other.aclose()


async def until_a_turn_works(api: RunningApi) -> None:
    async with asyncio.timeout(2 * RECOVERED_S):
        while True:
            answer = await api.chat("echo again", headers={"X-Conversation-ID": "fresh"})
            if answer.status_code == 200:
                return
            assert answer.status_code == 503, answer.text
            assert int(answer.headers["retry-after"]) >= 1
            await asyncio.sleep(0.1)
