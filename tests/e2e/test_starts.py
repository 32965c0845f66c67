"""A cold start with a real agent: its CLI boots beside the rest, and its log says when what was."""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Iterator

import pytest

from tests.bench.start_times import Start, read
from tests.e2e.conftest import KINDS
from tests.e2e.deployments import MODEL, Deployment, embedded, wait_until
from tests.parts import need
from worker.turns.start_timeline import StartPhase

pytestmark = pytest.mark.timeout(240)

ENGINE_ONLY = {StartPhase.CREATED}
OF_A_SPARE = {StartPhase.CLAIMED_SPARE}


@pytest.fixture(params=KINDS[:2])
def cold(request: pytest.FixtureRequest) -> Iterator[Deployment]:
    """A deployment without spares."""
    need({"docker": "docker", "bubblewrap": "bwrap"}[request.param])
    need("redis")
    with embedded(request.param, AGCLUSTER_SPARES_MIN="0", AGCLUSTER_SPARES_MAX="0") as running:
        yield running


def the_start(deployment: Deployment) -> Start:
    wait_until("the line about the start", lambda: bool(read(deployment.output())), 20)
    [start] = read(deployment.output())
    return start


def test_the_cli_boots_before_the_agent_listens_and_every_phase_is_told(cold: Deployment) -> None:
    headers = {"x-conversation-id": f"start-{uuid.uuid4()}"}
    answered = cold.client().chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "count 3"}], extra_headers=headers
    )
    assert answered.choices[0].message.content

    start = the_start(cold)
    missing = set(StartPhase) - start.reached_ms.keys() - OF_A_SPARE
    assert missing == (set() if cold.kind == "docker" else ENGINE_ONLY)
    assert (start.isolation, start.is_resumed) == (cold.kind, False)
    reached = start.reached_ms
    assert reached[StartPhase.CLI_SPAWNED] < reached[StartPhase.LISTENING]
    assert reached[StartPhase.CLI_CONNECTED] <= reached[StartPhase.SPOKE]
    if cold.kind == "docker":
        wait_until("the usual CPUs of the container", lambda: nano_cpus(cold) == [10**9], 20)


def nano_cpus(deployment: Deployment) -> list[int]:
    shown = subprocess.run(
        ["docker", "inspect", *deployment.containers()],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return [one["HostConfig"]["NanoCpus"] for one in json.loads(shown.stdout)]
