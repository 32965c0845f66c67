"""The compose file of a release, in a folder with nothing else: it starts, and answers."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from infra.reference.release_compose import release_compose
from tests.e2e.deployments import ROOT, free_port
from tests.parts import AGENT_IMAGE, CONTROL_IMAGE, need

pytestmark = [pytest.mark.compose, pytest.mark.docker, pytest.mark.timeout(300)]


@pytest.fixture
def folder() -> Iterator[Path]:
    """What a person has who took the files of a release, and the images."""
    need("compose")
    need("docker")
    with tempfile.TemporaryDirectory(prefix="agc-") as name:
        found = Path(name)
        (found / "compose.yaml").write_text(release_compose(ROOT))
        shutil.copy(ROOT / "infra" / "images" / "make-env.sh", found)
        yield found


def test_it_starts_without_a_clone_and_answers(folder: Path) -> None:
    port, project = free_port(), f"release-{os.getpid()}"
    subprocess.run(["sh", "make-env.sh", ".env"], cwd=folder, check=True, timeout=20)
    own = {
        "AGCLUSTER_PORT": port,
        "MODEL_PORT": free_port(),
        "COMPOSE_DATA_DIR": folder / "d",
        "AGCLUSTER_CLUSTER": project,
        "AGCLUSTER_ANTHROPIC_BASE_URL": "http://model:8099",
        "AGCLUSTER_DEMO": "true",
        "AGCLUSTER_RETIRE_ON_EXIT": "true",
        # The images of this version have another name before they are published.
        "CONTROL_IMAGE": CONTROL_IMAGE,
        "AGCLUSTER_AGENT_IMAGE": AGENT_IMAGE,
    }
    with (folder / ".env").open("a") as env:
        env.writelines(f"{name}={value}\n" for name, value in own.items())
    compose = ["docker", "compose", "-p", project, "--profile", "demo"]
    try:
        subprocess.run([*compose, "up", "-d", "--wait"], cwd=folder, check=True, timeout=180)
        answer = httpx.post(
            f"http://127.0.0.1:{port}/v1/chat/completions",
            headers={"Authorization": "Bearer sk-ant-demo"},
            json={
                "model": "claude-sonnet-4.5",
                "messages": [{"role": "user", "content": "run echo $((6 * 7))"}],
            },
            timeout=90,
        )
        assert answer.status_code == 200, answer.text
        assert "42" in answer.json()["choices"][0]["message"]["content"]
    finally:
        subprocess.run([*compose, "down", "-v"], cwd=folder, check=False, timeout=120)
        with suppress(OSError):
            shutil.rmtree(folder / "d")
    left = subprocess.run(
        ["docker", "ps", "-aq", "--filter", f"label=agcluster.cluster={project}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert left.stdout == "", "its agents are gone with it"
