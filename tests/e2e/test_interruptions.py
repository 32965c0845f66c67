"""What a user sees when something dies while a turn runs."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import uuid
from pathlib import Path

import openai
import pytest

from tests.e2e.deployments import MODEL, Deployment

pytestmark = pytest.mark.timeout(240)


def program(deployment: Deployment, module: str) -> int:
    """The pid of a program that `agcluster up` started."""
    parent = deployment.processes[0].pid
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rsplit(")", 1)[1].split()[1]) != parent:
                continue
            if module in (stat.parent / "cmdline").read_text():
                return int(stat.parent.name)
        except (FileNotFoundError, ProcessLookupError):
            continue
    raise LookupError(f"no {module} under {parent}")


def test_stream_outlives_a_killed_worker(deployment: Deployment) -> None:
    if deployment.kind == "compose":
        return  # The same code under another supervisor; killed by its own chaos tests.
    name = f"killed-{uuid.uuid4()}"
    chunks = deployment.client().chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "stream 150 deltas every 100 ms"}],
        stream=True,
        extra_headers={"X-Conversation-ID": name},
    )
    texts = (c.choices[0].delta.content or "" for c in chunks if c.choices)
    seen = ""
    for text in texts:
        seen += text
        if seen.startswith("0@") and " 5@" in seen:
            break
    os.kill(program(deployment, "worker.main"), signal.SIGKILL)
    seen += "".join(texts)
    assert [int(word.split("@")[0]) for word in seen.split()] == list(range(150))
    answer = deployment.client().chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "echo after"}],
        extra_headers={"X-Conversation-ID": name},
    )
    assert answer.choices[0].message.content == "after"


def test_killed_container_ends_the_turn_and_the_next_one_has_a_fresh_one(
    deployment: Deployment,
) -> None:
    if deployment.kind == "bubblewrap":
        return  # Killed in tests/contract/hosts.
    name = f"lost-{uuid.uuid4()}"
    before = set(deployment.containers())
    chunks = deployment.client().chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "stream 300 deltas every 100 ms"}],
        stream=True,
        extra_headers={"X-Conversation-ID": name},
    )
    for _ in itertools.islice(chunks, 4):
        pass
    (own,) = set(deployment.containers()) - before
    subprocess.run(["docker", "kill", own], check=True, capture_output=True, timeout=30)
    with pytest.raises(openai.APIError, match=r"(?i)container|memory"):
        for _ in chunks:
            pass
    answer = deployment.client().chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "echo again"}],
        extra_headers={"X-Conversation-ID": name},
    )
    assert answer.choices[0].message.content == "again"
