"""The composed deployment as its operator handles it: a changed setting, a mistaken one, a restart
of Redis, a look around.

That it ends in order, with no agent left, is looked at when the deployment is taken down
(`tests.e2e.composed`).
"""

from __future__ import annotations

import subprocess
import uuid
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


def compose(
    deployment: Deployment, *arguments: str, told: str | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["docker", "compose", *arguments],
        cwd=ROOT,
        env=deployment.compose,
        input=told,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


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


def redis(deployment: Deployment, *command: str) -> str:
    """What redis-cli says, as the worker's user, who may read all that is ours."""
    cli = 'REDISCLI_AUTH="$REDIS_WORKER_PASSWORD" exec redis-cli --user worker "$@"'
    return compose(deployment, "exec", "-T", "redis", "sh", "-c", cli, "-", *command).stdout


def asked(deployment: Deployment, name: str, text: str) -> str:
    answer = deployment.client().chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": text}],
        extra_headers={"X-Conversation-ID": name},
    )
    return answer.choices[0].message.content or ""


@pytest.mark.parametrize("end", ["restart", "kill"])
def test_a_restart_of_redis_in_mid_stream_loses_nothing(deployment: Deployment, end: str) -> None:
    """With the users that were shipped, Redis skipped most of its append-only file when it loaded
    it: streams ended, and conversations were gone.
    """
    quiet = f"quiet-{uuid.uuid4()}"
    asked(deployment, quiet, "echo before")
    keys = set(redis(deployment, "--scan", "--pattern", "agc:*").split())
    lasting = {key for key in keys if key.startswith(("agc:conv:", "agc:turn:", "agc:tenant:"))}
    assert len(lasting) > 5
    chunks = deployment.client().chat.completions.create(
        model=MODEL,
        stream=True,
        messages=[{"role": "user", "content": "stream 60 deltas every 100 ms"}],
        extra_headers={"X-Conversation-ID": f"streamed-{uuid.uuid4()}"},
    )
    texts = (c.choices[0].delta.content or "" for c in chunks if c.choices)
    seen = next(text for text in texts if text)

    if end == "kill":
        compose(deployment, "kill", "redis")
        done = compose(deployment, "start", "redis")
    else:
        done = compose(deployment, "restart", "redis")
    assert done.returncode == 0, done.stderr

    seen += "".join(texts)
    assert [int(word.split("@")[0]) for word in seen.split()] == list(range(60))
    assert lasting <= set(redis(deployment, "--scan", "--pattern", "agc:*").split())
    assert '"echo before"' in asked(deployment, quiet, "history")


@pytest.mark.parametrize("service", ["api", "worker", "gateway", "engine-proxy"])
def test_doctor_in_a_container_looks_at_its_program(deployment: Deployment, service: str) -> None:
    """It spoke of `up` and its port, and missed a redis-server, in a healthy container."""
    done = compose(deployment, "exec", "-T", service, "agcluster", "doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"This {service} works." in done.stdout
    assert "`up" not in done.stdout
    assert "agcluster up" not in done.stdout
    assert "MISSING" not in done.stdout
