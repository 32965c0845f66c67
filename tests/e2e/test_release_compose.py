"""The compose file of a release, in a folder with nothing else: it starts, and answers."""

from __future__ import annotations

import os
import re
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


class Released:
    """The deployment of a release's files in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "d"
        self.project = f"release-{os.getpid()}"
        self._port = free_port()
        self._compose = ["docker", "compose", "-p", self.project, "--profile", "demo"]
        self.run("sh", "make-env.sh", ".env")
        own = {
            "AGCLUSTER_PORT": self._port,
            "MODEL_PORT": free_port(),
            "COMPOSE_DATA_DIR": self.data,
            "AGCLUSTER_CLUSTER": self.project,
            "AGCLUSTER_ANTHROPIC_BASE_URL": "http://model:8099",
            "AGCLUSTER_DEMO": "true",
            "AGCLUSTER_RETIRE_ON_EXIT": "true",
            # The images of this version have another name before they are published.
            "CONTROL_IMAGE": CONTROL_IMAGE,
            "AGCLUSTER_AGENT_IMAGE": AGENT_IMAGE,
        }
        with (folder / ".env").open("a") as env:
            env.writelines(f"{name}={value}\n" for name, value in own.items())

    def run(self, *command: str) -> str:
        """In the folder; it has to succeed."""
        done = subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, check=False, timeout=180
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def up(self) -> None:
        self.run(*self._compose, "up", "-d", "--wait")

    def down(self) -> None:
        """With all that Redis knows."""
        self.run(*self._compose, "down", "-v")

    def follow(self, commands: str) -> None:
        """Commands of a page, where it names the usual project and folder."""
        told = commands.replace("docker compose", " ".join(self._compose))
        told = told.replace("agcluster_redis-data", f"{self.project}_redis-data")
        self.run("sh", "-ec", told.replace("/var/lib/agcluster", str(self.data)))

    def ask(self, text: str) -> str:
        answer = httpx.post(
            f"http://127.0.0.1:{self._port}/v1/chat/completions",
            headers={"Authorization": "Bearer sk-ant-demo", "X-Conversation-ID": "kept"},
            json={"model": "claude-sonnet-4.5", "messages": [{"role": "user", "content": text}]},
            timeout=90,
        )
        assert answer.status_code == 200, answer.text
        said: str = answer.json()["choices"][0]["message"]["content"]
        return said

    def agents(self) -> str:
        """Ids of its agents' containers."""
        return self.run(
            "docker", "ps", "-aq", "--filter", f"label=agcluster.cluster={self.project}"
        )


@pytest.fixture
def released(folder: Path) -> Iterator[Released]:
    deployment = Released(folder)
    try:
        deployment.up()
        yield deployment
    finally:
        with suppress(AssertionError):
            deployment.down()


def backup_blocks() -> list[str]:
    """How docs/how-to/backup-and-restore.md backs up under Compose, and restores."""
    page = (ROOT / "docs" / "how-to" / "backup-and-restore.md").read_text()
    section = page.partition("## Under Compose\n")[2].partition("\n## ")[0]
    return re.findall(r"```sh\n(.*?)```", section, re.DOTALL)


def test_it_answers_without_a_clone_and_a_backup_of_it_is_restored(released: Released) -> None:
    """With our Redis, its users and its append-only file; the page's own commands."""
    assert "42" in released.ask("run echo $((6 * 7))")
    released.ask("write notes.md: buy milk")
    released.ask("remember that the meeting is on Friday")
    take, restore = backup_blocks()
    released.follow(take)
    assert "buy milk" in released.ask("read notes.md"), "it went on"

    released.down()
    assert released.agents() == "", "its agents are gone with it"
    shutil.rmtree(released.data)
    released.data.mkdir()
    released.follow(restore)
    released.up()
    assert "buy milk" in released.ask("read notes.md")
    assert "Friday" in released.ask("what do you remember?")
