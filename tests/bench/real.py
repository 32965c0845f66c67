"""Deployments with real agents, as a client sees them. Nothing here knows the product's insides."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from itertools import count

import httpx

from infra.runtime.settings import Settings
from tests.bench import raw_client
from tests.bench.not_here import NotHere
from tests.bench.raw_client import Connection, says
from tests.e2e.deployments import GOOD_KEY, MODEL, Deployment, embedded
from tests.parts import missing

PARTS = {"docker": "docker", "bubblewrap": "bwrap"}
WITHIN_S = 500.0
LOOK_EVERY_S = 0.05


class Clients:
    """Those who ask one deployment."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self._asked = count(1)

    async def first_delta_s(
        self, conversation: str, *, prompt: str | None = None, key: str = GOOD_KEY
    ) -> float:
        """How long one waits for the first word. Raises `Incomplete`, `OSError`, `TimeoutError`."""
        # The first message of a conversation again would ask for another answer to it.
        prompt = prompt or f"count {next(self._asked)}"
        connection = Connection()
        question = raw_client.openai(
            self.deployment.base_url, model=MODEL, key=key, conversation=conversation
        )
        try:
            answer = await connection.ask(question, says(prompt), within_s=WITHIN_S)
            return answer.first_delta_s
        finally:
            connection.close()

    async def until_none_is_warm(self, *, within_s: float) -> None:
        """Until no conversation has a container. Raises `TimeoutError`."""
        async with httpx.AsyncClient(
            base_url=self.deployment.base_url, headers={"authorization": f"Bearer {GOOD_KEY}"}
        ) as client:
            end_s = time.monotonic() + within_s
            while time.monotonic() < end_s:
                listed = (await client.get("/v1/sessions", params={"limit": 100})).json()
                if not any(one["state"] in ("warm", "busy") for one in listed["data"]):
                    return
                await asyncio.sleep(LOOK_EVERY_S)
        raise TimeoutError(f"conversations are warm after {within_s} s")

    async def until_logged(self, words: str, times: int, *, within_s: float) -> None:
        """Until the deployment's log has these words so often. Raises `TimeoutError`."""
        end_s = time.monotonic() + within_s
        while self.deployment.output().count(words) < times:
            if time.monotonic() > end_s:
                raise TimeoutError(f"{words!r} not {times} times after {within_s} s")
            await asyncio.sleep(LOOK_EVERY_S)


@contextlib.contextmanager
def real_agents(isolation: str, **settings: str) -> Iterator[Clients]:
    """`agcluster up`. Raises `NotHere` where the machine lacks a part."""
    if reason := missing(PARTS[isolation]) or missing("redis"):
        raise NotHere(reason)
    with embedded(isolation, **settings) as deployment:
        yield Clients(deployment)


def has_setting(name: str) -> bool:
    """Whether this commit knows it: an unknown one is refused."""
    return name in Settings.model_fields


def without_spares() -> dict[str, str]:
    """Settings for a deployment whose starts are cold."""
    return {"AGCLUSTER_SPARES_MAX": "0"} if has_setting("spares_max") else {}
