"""A walk finds nothing wrong with a service that remembers right, and catches one that does not."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.walks.__main__ import KINDS
from tests.walks.walker import Kind, Place, Walker, WrongMemory

PLACE = Place("http://service", "http://model", "sk-ant-walk")


class Service:
    """Answers every message, and tells what its model was asked: all that was said, but for those
    that are lost on their way, counted from 1. `joins`: it knows a request that comes again."""

    def __init__(self, kind: Kind, *, loses: int = 0, joins: bool = True) -> None:
        self._kind = kind
        self._loses = loses
        self._joins = joins
        self._answered: dict[bytes, str] = {}
        self._turns: list[str] = []
        self._memory: list[dict[str, Any]] = []
        self._asked: list[dict[str, Any]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/_script/last":
            return httpx.Response(200, json={"messages": self._asked})
        if request.method == "GET":
            return httpx.Response(200, json={"turn_ids": self._turns, "state": "cold"})
        body = json.loads(request.content)
        said = body["messages"][-1]["content"]
        if said.startswith("error"):
            return httpx.Response(403, json={})
        if said.startswith("### Task"):
            return httpx.Response(200, json={})
        is_again = "x-stainless-retry-count" in request.headers and self._joins
        if is_again and (given := self._answered.get(request.content)):
            return httpx.Response(200, text=given)
        self._turns.append(said)
        words = ["re: ", *(f"{word} " for word in said.split())]
        self._remember(body["messages"], said, "".join(words))
        chunks = [{"choices": [{"delta": {"content": word}}]} for word in words]
        lines = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)
        self._answered[request.content] = f"{lines}data: [DONE]\n\n"
        return httpx.Response(200, text=self._answered[request.content])

    def _remember(self, sent: list[dict[str, Any]], said: str, answer: str) -> None:
        if self._kind != "thin":
            self._asked = [m for m in sent if m["role"] != "system"]
            if len(self._turns) == self._loses:
                self._asked = self._asked[-1:]
            return
        if len(self._turns) != self._loses:
            self._memory.append({"role": "user", "content": said})
        self._asked = list(self._memory)
        if "tool" in said:
            result = {"type": "tool_result", "content": "found"}
            self._memory.append({"role": "user", "content": [result]})
            self._asked = list(self._memory)
        self._memory.append({"role": "assistant", "content": answer})


async def walk(service: Service, kind: Kind, *, seed: int, steps: int = 25) -> Walker:
    transport = httpx.MockTransport(service)
    async with httpx.AsyncClient(transport=transport, base_url=PLACE.base_url) as http:
        walker = Walker(PLACE, http, seed=seed, kind=kind, pause=0.0)
        await walker.walk(steps)
        return walker


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
async def test_a_right_memory_is_found_right(kind: Kind, seed: int) -> None:
    walker = await walk(Service(kind), kind, seed=seed)
    again = await walk(Service(kind), kind, seed=seed)
    assert walker.steps == again.steps
    assert len(walker.steps) >= 25


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loses", [2, 3, 4])
async def test_a_lost_message_is_found(kind: Kind, loses: int) -> None:
    """Where the turn itself was stopped nobody looks; a log has it later, a page may have moved."""
    found = 0
    for seed in range(4):
        try:
            await walk(Service(kind, loses=loses), kind, seed=seed, steps=10)
        except WrongMemory:
            found += 1
    assert found >= 1


@pytest.mark.parametrize("kind", ["thin", "resends", "cuts"])
async def test_a_message_that_is_taken_twice_is_found(kind: Kind) -> None:
    """A client without a name cannot tell: to it both turns are of the same page."""
    found = 0
    for seed in range(4):
        try:
            await walk(Service(kind, joins=False), kind, seed=seed)
        except WrongMemory:
            found += 1
    assert found >= 1
