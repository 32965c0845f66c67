"""`make compose-down` on stand-ins: services that do nothing, and a container that says it is an
agent.

That the real services end in order is looked at where they are taken down (`tests.e2e.composed`).
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.parts import THIRD_PARTY_IMAGES, need

ROOT = Path(__file__).resolve().parents[3]
IMAGE = THIRD_PARTY_IMAGES[0]
SERVICES = f"""
x-idle: &idle
  image: {IMAGE}
  pull_policy: never
  init: true
  entrypoint: [sleep, "300"]
  network_mode: none
services:
  api: *idle
  gateway: {{ <<: *idle, entrypoint: [sh, -c, "trap 'exit 0' TERM; sleep 300 & wait"] }}
  model: *idle
  worker:
    <<: *idle
    scale: 0
    environment: {{ AGCLUSTER_CLUSTER: "${{CLUSTER}}", AGCLUSTER_HOST_ID: here }}
"""
"""The signal ends `api` and `model`; `gateway` ends itself."""

pytestmark = pytest.mark.compose


def docker(*arguments: str) -> str:
    done = subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def cluster() -> str:
    need("compose")
    return f"down-{os.getpid()}"


@pytest.fixture
def stand_ins(cluster: str, tmp_path: Path) -> dict[str, str]:
    """The environment in which `docker compose` means them. Nothing is started yet."""
    file = tmp_path / "compose.yaml"
    file.write_text(SERVICES)
    return os.environ | {
        "COMPOSE_FILE": str(file),
        "COMPOSE_PROJECT_NAME": cluster,
        "CLUSTER": cluster,
    }


@pytest.fixture
def agents(cluster: str) -> Iterator[dict[str, str]]:
    """Containers by where their labels say they belong."""
    made = {
        where: docker(
            *("run", "-d", "--network", "none", "--label", f"agcluster.cluster={of}"),
            *("--label", f"agcluster.host={host}", "--entrypoint", "sleep", IMAGE, "300"),
        )
        for where, of, host in [
            ("here", cluster, "here"),
            ("on another host", cluster, "there"),
            ("of another cluster", f"{cluster}-other", "here"),
        ]
    }
    yield made
    subprocess.run(["docker", "rm", "-f", *made.values()], capture_output=True, check=False)


def taken_down(environ: dict[str, str]) -> str:
    done = subprocess.run(
        ["make", "-s", "compose-down", "ARGS=--timeout 5"],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stderr


def test_who_is_ended_by_the_signal_itself_is_told_of_but_for_the_model(
    stand_ins: dict[str, str],
) -> None:
    """143 passed as an end in order, so a program that left its tidying up undone was not seen."""
    up = ["docker", "compose", "up", "-d"]
    subprocess.run(up, env=stand_ins, capture_output=True, timeout=60, check=True)
    said = taken_down(stand_ins)
    told = [line for line in said.splitlines() if "exit code" in line]
    name = stand_ins["COMPOSE_PROJECT_NAME"]
    assert told == [f"compose-down: {name}-api-1 did not end in order: exit code 143"]


def test_an_agent_that_no_worker_stopped_is_found_by_its_labels(
    stand_ins: dict[str, str], agents: dict[str, str]
) -> None:
    said = taken_down(stand_ins)
    left = docker("ps", "-aq", "--no-trunc").split()
    assert {where for where, made in agents.items() if made in left} == {
        "on another host",
        "of another cluster",
    }
    assert "removing agents that no worker has stopped" in said
    assert f"no agent of cluster {stand_ins['CLUSTER']} is left on host here" in said
