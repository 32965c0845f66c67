"""An agent is published, installed where others run, and used; when it is edited it is gone."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import pytest

from infra.cli.up.programs import python_command
from infra.releases.keys import PublisherKey
from tests.e2e.deployments import GOOD_KEY, ROOT, Deployment, embedded, wait_until
from tests.e2e.upstream import last_asked
from tests.parts import need

pytestmark = [pytest.mark.bwrap, pytest.mark.timeout(240)]

PROFILE = """
description: Writes release notes.
system_prompt: You write the notes of the canary release-5c1f.
tools: [Bash, Read]
skills: [of/notes]
workspace: start
"""
SKILL = "---\nname: notes\ndescription: How notes are written.\n---\nThe word is canary-notes-77.\n"


@dataclass(frozen=True)
class Scene:
    """A deployment, the folder of its agents, and the one of a publisher's."""

    deployment: Deployment
    agents: Path
    publishers: Path
    settings: dict[str, str]

    def run(self, *arguments: str) -> str:
        """The command of an operator of that deployment."""
        environ = {k: v for k, v in os.environ.items() if not k.startswith("AGCLUSTER_")}
        data = {"AGCLUSTER_DATA_DIR": str(self.deployment.data_dir)}
        done = subprocess.run(
            [*python_command("infra.cli.main"), *arguments],
            cwd=ROOT,
            env={**environ, **self.settings, **data},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def until_listed(self, is_right: Callable[[set[str]], bool]) -> None:
        with self.deployment.client() as client:
            wait_until(
                "the agents", lambda: is_right({model.id for model in client.models.list()}), 30
            )


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    need("bwrap")
    need("redis")
    agents, ours = tmp_path_factory.mktemp("agents"), tmp_path_factory.mktemp("ours")
    key = PublisherKey.new()
    key.write(ours / "acme.pem")
    (ours / "writer.yaml").write_text(PROFILE)
    (ours / "of/notes").mkdir(parents=True)
    (ours / "of/notes/SKILL.md").write_text(SKILL)
    (ours / "start").mkdir()
    (ours / "start/begun.md").write_text("begun-canary-31\n")
    settings = {
        "AGCLUSTER_AGENTS_DIR": str(agents),
        "AGCLUSTER_AGENT_PUBLISHERS": f"acme={key.public}",
        "AGCLUSTER_INSTALLED_AGENTS_MAX_TURNS": "50",
    }
    with embedded("bubblewrap", **settings) as deployment:
        yield Scene(deployment, agents, ours, settings)


def test_an_agent_goes_through_the_registry_into_a_turn(scene: Scene) -> None:
    signing = ("--publisher", "acme", "--key", str(scene.publishers / "acme.pem"))
    ours = ("--dir", str(scene.publishers))
    scene.run("agents", "publish", "writer", "--version", "1.0.0", *signing, *ours)
    listed = httpx.get(
        f"{scene.deployment.base_url}/v0.1/agents", headers={"x-api-key": GOOD_KEY}, timeout=20
    )
    assert [one["agent"]["name"] for one in listed.json()["agents"]] == ["acme/writer"]
    told = scene.run("agents", "install", "acme/writer", "--yes")
    assert "model calls in one turn: at most 50" in told
    scene.until_listed(lambda names: "writer" in names)
    with scene.deployment.client() as client:
        prompt = "tool bash cat begun.md; cat /run/bundle/*/skills/notes/SKILL.md"
        answer = client.chat.completions.create(
            model="writer", messages=[{"role": "user", "content": prompt}]
        )
    asked = str(last_asked(scene.deployment))
    assert "canary release-5c1f" in asked, "its prompt"
    assert "begun-canary-31" in asked, "the files of its workspace"
    assert "How notes are written." in asked, "its skill is offered"
    assert answer.choices[0].finish_reason == "stop"


def test_an_installed_agent_that_is_edited_is_gone(scene: Scene) -> None:
    scene.until_listed(lambda names: "writer" in names)
    [profile] = scene.agents.rglob("agent.yaml")
    profile.write_text(profile.read_text().replace("- Read", "- Read\n- WebFetch"))
    scene.until_listed(lambda names: "writer" not in names)
    with scene.deployment.client() as client, pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="writer", messages=[{"role": "user", "content": "hi"}])
