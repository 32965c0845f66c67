"""Two API replicas are one service: what one has begun, the other goes on with."""

from __future__ import annotations

import json
import uuid
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.e2e.deployments import GOOD_KEY, MODEL, Deployment

pytestmark = pytest.mark.timeout(240)


def test_other_replica_follows_a_turn_that_runs(deployment: Deployment) -> None:
    """The balancer gives a new request to the replica with the fewest open: while the first stream
    is read, that is the other one.
    """
    if deployment.kind != "compose":
        return  # One replica only.
    turns = f"{deployment.base_url}/v1/chat/completions"
    headers = {"Authorization": f"Bearer {GOOD_KEY}", "X-Conversation-ID": f"two-{uuid.uuid4()}"}
    asked = {"role": "user", "content": "stream 100 deltas every 50 ms"}
    with (
        ThreadPoolExecutor(2) as beside,
        httpx.stream(
            "POST",
            turns,
            json={"model": MODEL, "stream": True, "messages": [asked]},
            headers=headers,
            timeout=60,
        ) as first,
    ):
        lines = first.iter_lines()
        begun = [next(line for line in lines if '"content":"0@' in line)]
        turn = json.loads(begun[0].removeprefix("data:"))["id"]
        comeback = f"{turns}/{turn}?stream=true"
        others = [beside.submit(httpx.get, comeback, headers=headers, timeout=60) for _ in "ab"]
        told = ["\n".join([*begun, *lines]), *(other.result().text for other in others)]
    for answer in told:
        assert [int(w.split("@")[0]) for w in _text(answer).split()] == list(range(100))


def _text(answer: str) -> str:
    chunks = [line[5:].strip() for line in answer.splitlines() if line.startswith("data:")]
    assert chunks.pop() == "[DONE]"
    choices = [choice for chunk in chunks for choice in json.loads(chunk)["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices)
