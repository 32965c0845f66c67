"""Metering and budgets with every part real: client, API, worker, gateway, CLI, Redis."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import openai
import pytest

from tests.e2e.deployments import MODEL, ROOT, Deployment, embedded
from tests.e2e.test_main_job import ask, text_of
from tests.parts import need

pytestmark = [pytest.mark.bwrap, pytest.mark.timeout(240)]

TURN_BUDGET = 60_000
DAY_BUDGET = 120_000


def usage(deployment: Deployment) -> dict[str, int]:
    """What `agcluster usage` says of the one tenant there is."""
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
    [sums] = json.loads(done.stdout).values()
    assert set(sums.pop("models")) == {MODEL}
    found: dict[str, int] = sums
    return found


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


def test_turns_are_metered_and_stopped_by_their_budgets() -> None:
    need("bwrap")
    need("redis")
    budgets = {
        "AGCLUSTER_TURN_BUDGET_TOKENS": str(TURN_BUDGET),
        "AGCLUSTER_TENANT_BUDGET_TOKENS": str(DAY_BUDGET),
    }
    with embedded("bubblewrap", **budgets) as deployment:
        assert text_of(ask(deployment, "usage 900 100 10 9000", name="a")) == "counted"
        assert usage(deployment) == {
            "calls": 1,
            "input": 900,
            "output": 100,
            "cache_creation": 10,
            "cache_read": 9000,
            "spent": 1010,
        }

        said, code = until_stopped(
            deployment, "stream 20000 deltas every 4 ms of 200 chars", name="a"
        )
        assert code == "budget_exceeded"
        assert len(said) > 10_000
        spent = usage(deployment)["spent"]
        assert TURN_BUDGET + 1010 <= spent < DAY_BUDGET - 20_000

        # The next turn has a budget of its own, and passes the day's.
        assert text_of(ask(deployment, "usage 59000 10 0 0", name="a")) == "counted"
        assert usage(deployment)["spent"] == spent + 59_010

        with pytest.raises(openai.APIStatusError) as refused:
            ask(deployment, "echo no", name="b")
        assert (refused.value.status_code, refused.value.code) == (402, "budget_exceeded")
        assert 0 < int(refused.value.response.headers["retry-after"]) <= 86400
