"""Metering and budgets with every part real: client, API, worker, gateway, CLI, Redis."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.e2e.deployments import MODEL, ROOT, Deployment, embedded
from tests.e2e.test_main_job import ask, text_of
from tests.parts import need

pytestmark = [pytest.mark.bwrap, pytest.mark.timeout(240)]

TURN_BUDGET = 60_000
DAY_BUDGET = 120_000
OTHER_KEY = "sk-ant-e2e-other-5d0f2c7b9e4a"

INNER = "message " + json.dumps({"say": ["found"], "tokens": [1111, 222, 33, 4, 5]})
SUB_AGENT = "Agent " + json.dumps(
    {"description": "look", "prompt": INNER, "subagent_type": "general-purpose"}
)


@pytest.fixture(scope="module")
def deployment() -> Iterator[Deployment]:
    need("bwrap")
    need("redis")
    budgets = {
        "AGCLUSTER_TURN_BUDGET_TOKENS": str(TURN_BUDGET),
        "AGCLUSTER_TENANT_BUDGET_TOKENS": str(DAY_BUDGET),
    }
    with embedded("bubblewrap", **budgets) as running:
        yield running


def books(deployment: Deployment) -> dict[str, Any]:
    """What `agcluster usage` says of each tenant."""
    environ = {"PATH": os.environ["PATH"], "AGCLUSTER_DATA_DIR": str(deployment.data_dir)}
    done = subprocess.run(
        [sys.executable, "-m", "infra.cli.main", "usage", "list", "--json"],
        env=environ,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def usage(deployment: Deployment, *, others: Collection[str]) -> dict[str, int]:
    """What it says of the one tenant beside these."""
    [sums] = (sums for tenant, sums in books(deployment).items() if tenant not in others)
    assert set(sums.pop("models")) == {MODEL}
    found: dict[str, int] = sums
    return found


def billed(deployment: Deployment) -> Counter[str]:
    """What the model's service has really sent, by its own words for tokens."""
    sums: Counter[str] = Counter()
    for entry in httpx.get(f"{deployment.model_url}/_script/log", timeout=10).json():
        sums.update(entry["billed"])
    return sums


def until_stopped(deployment: Deployment, prompt: str, *, name: str) -> tuple[str, str | None]:
    """The text of a stream up to its error, and the error's code."""
    said = ""
    try:
        for chunk in deployment.client().chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": prompt}],
            stream=True,
            extra_headers={"X-Conversation-ID": name},
        ):
            said += (chunk.choices[0].delta.content or "") if chunk.choices else ""
    except openai.APIError as error:
        return said, error.code
    return said, None


def test_answer_books_and_budget_agree_on_what_the_model_has_sent(deployment: Deployment) -> None:
    """Two sub-agents' calls are in all of them, to the token."""
    others = books(deployment)
    httpx.delete(f"{deployment.model_url}/_script/log", timeout=10)
    answer = ask(deployment, f"tools {SUB_AGENT} ;; {SUB_AGENT} then echo done", key=OTHER_KEY)
    assert text_of(answer) == "done"
    sent = billed(deployment)
    fresh, written = sent["input_tokens"], sent["cache_creation_input_tokens"]
    read, output = sent["cache_read_input_tokens"], sent["output_tokens"]
    assert (output > 2 * 222, read >= 2 * 4) == (True, True)

    told = answer.usage
    assert told is not None
    assert (told.prompt_tokens, told.completion_tokens) == (fresh + written + read, output)
    assert told.total_tokens == told.prompt_tokens + told.completion_tokens
    assert told.prompt_tokens_details is not None
    assert told.prompt_tokens_details.cached_tokens == read
    assert told.completion_tokens_details is not None
    assert told.completion_tokens_details.reasoning_tokens == sent["thinking_tokens"] == 2 * 5
    assert deployment.client(OTHER_KEY).chat.completions.retrieve(answer.id).usage == told
    assert usage(deployment, others=others) == {
        "calls": 4,
        "input": fresh,
        "output": output,
        "cache_creation": written,
        "cache_read": read,
        "spent": fresh + output + written,
    }


def test_turns_are_metered_and_stopped_by_their_budgets(deployment: Deployment) -> None:
    others = books(deployment)
    assert text_of(ask(deployment, "usage 900 100 10 9000", name="a")) == "counted"
    assert usage(deployment, others=others) == {
        "calls": 1,
        "input": 900,
        "output": 100,
        "cache_creation": 10,
        "cache_read": 9000,
        "spent": 1010,
    }

    said, code = until_stopped(deployment, "stream 20000 deltas every 4 ms of 200 chars", name="a")
    assert code == "budget_exceeded"
    assert len(said) > 10_000
    spent = usage(deployment, others=others)["spent"]
    assert TURN_BUDGET + 1010 <= spent < DAY_BUDGET - 20_000

    # The next turn has a budget of its own, and passes the day's: with its last figures, which come
    # too late to cut anything.
    assert text_of(ask(deployment, "usage 30000 29010 0 0", name="a")) == "counted"
    assert usage(deployment, others=others)["spent"] == spent + 59_010

    with pytest.raises(openai.APIStatusError) as refused:
        ask(deployment, "echo no", name="b")
    assert (refused.value.status_code, refused.value.code) == (402, "budget_exceeded")
    assert 0 < int(refused.value.response.headers["retry-after"]) <= 86400
