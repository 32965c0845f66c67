"""The composed deployment as its operator handles it: a changed setting, a mistaken one.

That it ends in order, with no agent left, is looked at when the deployment is taken down
(`tests.e2e.composed`).
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import httpx
import pytest

from tests.e2e.conftest import COMPOSED
from tests.e2e.deployments import GOOD_KEY, MODEL, ROOT, Deployment

pytestmark = [pytest.mark.timeout(300), COMPOSED]

STREAM = "stream 150 deltas every 100 ms"


def make(deployment: Deployment, target: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "-s", target],
        cwd=ROOT,
        env=deployment.compose,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def containers(deployment: Deployment) -> dict[str, set[str]]:
    """The running containers of each service."""
    listed = subprocess.run(
        ["docker", "compose", "ps", "--format", "{{.Service}} {{.ID}}"],
        env=deployment.compose,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    found: dict[str, set[str]] = {}
    for service, container in (line.split() for line in listed.stdout.splitlines()):
        found.setdefault(service, set()).add(container)
    return found


@contextmanager
def setting(deployment: Deployment, line: str) -> Iterator[None]:
    """A line more in the deployment's `.env`."""
    file = Path(deployment.compose["COMPOSE_ENV_FILES"])
    before = file.read_text()
    file.write_text(f"{before}{line}\n")
    try:
        yield
    finally:
        file.write_text(before)


def test_a_rollout_restarts_what_reads_the_setting_and_the_address_keeps_answering(
    deployment: Deployment,
) -> None:
    """Once each change of a setting killed the gateway in the middle of model calls, replaced all
    replicas at once, and cut what was streamed through the balancer.
    """
    before, over = containers(deployment), Event()

    def asked_all_the_time() -> list[int]:
        statuses = []
        headers = {"Authorization": f"Bearer {GOOD_KEY}"}
        with httpx.Client(base_url=deployment.base_url, timeout=30, headers=headers) as client:
            while not over.wait(0.1):
                statuses.append(client.get("/v1/models").status_code)
        return statuses

    def streamed() -> str:
        chunks = deployment.client().chat.completions.create(
            model=MODEL, stream=True, messages=[{"role": "user", "content": STREAM}]
        )
        return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)

    with ThreadPoolExecutor(2) as beside, setting(deployment, "AGCLUSTER_PING_INTERVAL_S=9"):
        stream, asking = beside.submit(streamed), beside.submit(asked_all_the_time)
        try:
            done = make(deployment, "rollout")
        finally:
            over.set()
        answers, text = asking.result(), stream.result()
        assert done.returncode == 0, done.stderr
    assert set(answers) == {200}
    assert [int(word.split("@")[0]) for word in text.split()] == list(range(150))
    after = containers(deployment)
    assert not before.pop("api") & after["api"]
    assert len(after.pop("api")) == 2
    assert before == after
    assert "exit code" not in done.stderr


def test_a_name_that_is_no_setting_stops_a_rollout_before_it_begins(
    deployment: Deployment,
) -> None:
    """Compose passes on the names it knows, so none of the programs would see a mistaken one."""
    before = containers(deployment)
    with setting(deployment, "AGCLUSTER_PROT=8001"):
        done = make(deployment, "rollout")
    assert done.returncode != 0
    assert "AGCLUSTER_PROT: is not a setting" in done.stderr + done.stdout
    assert containers(deployment) == before
