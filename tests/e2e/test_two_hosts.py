"""Two Docker engines stand for two hosts: one dies in mid-turn, and comes back later.

Each host has a gateway, a worker and a data folder of its own; Redis and the API are shared. Agents
are the real CLI.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from tests.chaos.cluster import Agents, Cluster, Host, Shape, cluster, until
from tests.e2e.deployments import MODEL
from tests.parts import need, second_engine
from worker.hosts.docker.engine import engine_address
from worker.hosts.host import Container

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]

KEY = "sk-ant-two-hosts-canary-41c7"
VISIBLE_S = 30.0
"""A dead host's turn ends with an error within this time."""


@pytest.fixture
async def two_hosts() -> AsyncIterator[Cluster]:
    for part in ("redis", "docker", "docker2"):
        need(part)
    engines = (engine_address(), second_engine())
    shape = Shape(Agents.DOCKER, replicas=1, workers=(1, 1), engines=engines, settings={"slots": 4})
    async with cluster(shape, name="hosts") as running:
        yield running


class Chat:
    """A client that resends its history, as OpenAI clients do."""

    def __init__(self, running: Cluster, name: str) -> None:
        self.name = name
        self._running = running
        self._client = openai.AsyncOpenAI(
            base_url=f"{running.urls[0]}/v1", api_key=KEY, max_retries=0, timeout=90
        )
        self._said: list[Any] = []

    async def say(self, text: str) -> str:
        """A whole turn."""
        return "".join([delta async for delta in self.stream(text)])

    async def stream(self, text: str) -> AsyncIterator[str]:
        """A turn, delta by delta; what came of it is remembered however it ends."""
        answer = ""
        self._said.append({"role": "user", "content": text})
        try:
            chunks = await self._client.chat.completions.create(
                model=MODEL,
                messages=self._said,
                stream=True,
                extra_headers={"X-Conversation-ID": self.name},
            )
            async for chunk in chunks:
                delta = chunk.choices[0].delta.content if chunk.choices else None
                if delta:
                    answer += delta
                    yield delta
        finally:
            self._said.append({"role": "assistant", "content": answer or "(nothing)"})

    async def home(self) -> Host:
        """The host that has its container."""
        record = await self._running.conversation(KEY, self.name)
        assert record is not None
        return next(host for host in self._running.hosts if host.name == record.host)

    async def container(self) -> Container:
        record = await self._running.conversation(KEY, self.name)
        assert record is not None
        found = await (await self.home()).containers()
        return next(c for c in found if c.id == record.container)

    async def aclose(self) -> None:
        await self._client.close()


@pytest.fixture
async def chats(two_hosts: Cluster) -> AsyncIterator[list[Chat]]:
    made = [Chat(two_hosts, f"chat-{i}") for i in range(4)]
    yield made
    for chat in made:
        await chat.aclose()


async def test_a_dead_host_costs_one_visible_error_and_its_return_nothing(
    two_hosts: Cluster, chats: list[Chat]
) -> None:
    # New conversations spread over the hosts by their load.
    await asyncio.gather(*(chat.say("echo hello") for chat in chats))
    homes = {chat: await chat.home() for chat in chats}
    assert set(homes.values()) == set(two_hosts.hosts)
    [(lost, _), (survivor, _)] = Counter(homes.values()).most_common()
    busy, warm, *_ = [chat for chat, home in homes.items() if home is lost]

    # A conversation stays where it is, in its container.
    before = await busy.container()
    assert await busy.say("echo again") == "again"
    assert await busy.container() == before

    # The host is gone in mid-turn: worker and gateway die, one container with them.
    left_behind = await warm.container()
    stream = busy.stream("stream 600 deltas every 100 ms")
    assert (await anext(stream)).startswith("0@")
    for process in lost.processes():
        await process.kill()
    await lost.engine.stop(before.id, grace_s=0)
    began = time.monotonic()
    with pytest.raises(openai.APIError, match="container ended"):
        async for _ in stream:
            pass
    assert time.monotonic() - began < VISIBLE_S

    # The next turns work on the other host, with their history.
    for chat in (busy, warm):
        assert await chat.say("echo elsewhere") == "elsewhere"
        assert await chat.home() is survivor
    remembered = await busy.say("history")
    assert "echo hello" in remembered
    assert "echo again" in remembered
    there = {c.id for c in await survivor.containers()}

    # The host comes back: what is left of the moved conversation goes, and nothing else.
    assert left_behind.id in {c.id for c in await lost.containers()}
    await lost.start()
    await two_hosts.ready()
    await until("what was left behind is gone", lambda: _has_nothing(lost, left_behind))
    assert {c.id for c in await survivor.containers()} == there
    assert await warm.say("echo still here") == "still here"
    assert await warm.home() is survivor


async def _has_nothing(host: Host, container: Container) -> bool:
    return container.id not in {c.id for c in await host.containers()}
