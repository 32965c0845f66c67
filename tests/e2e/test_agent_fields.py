"""Fields of an agent's profile whose effect is seen only with everything in its place: what the
model is asked, and what is in the container."""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion

from tests.e2e.deployments import Deployment, embedded
from tests.e2e.upstream import last_asked
from tests.parts import AGENT_IMAGE, need
from worker.hosts.bubblewrap.cgroups import CgroupRoot

pytestmark = pytest.mark.timeout(240)

NEW = "claude-opus-5-5"
"""A model with levels of effort."""
TINY_SERVER = (Path(__file__).parents[1] / "fakes" / "tiny_mcp.py").read_text()
AGENTS = {
    "plain": "",
    "thinker": f"models: [{NEW}]\neffort: low\n",
    "teller": "tool_display: text\n",
    "citing": "artifact_display: annotations\n",
    "silent": "artifact_display: 'off'\n",
    "local": "mcp_servers:\n  tiny:\n    command: python3\n    env: {GREETING: good day}\n"
    f"    args: ['-c', {json.dumps(TINY_SERVER)}]\n",
    "skilled": "tools: [Bash, Read]\nskills: [own/house-style]\nworkspace: start\n",
    "small": "container: {memory_mb: 512, cpus: 0.5, pids: 128}\nworkspace_max_mb: 40\n",
    "imaged": "image: agcluster-test-own:1\n",
    "missing": "image: agcluster-never-built:0\n",
    "other": "tools: [Bash]\nskills: [own/other]\n",
}
FILES = {
    "own/house-style/SKILL.md": """---
name: house-style
description: How texts are written in this house.
---
Write with the word BILLYWITCH.
""",
    "own/house-style/words.txt": "BILLYWITCH",
    "own/other/SKILL.md": "---\nname: other\ndescription: Another.\n---\nOTHERWISE.\n",
    "start/notes/README.md": "Begin here.",
    "start/run.sh": "#!/bin/sh\necho it-runs\n",
}


def written(folder: Path) -> Path:
    """A folder with the agents of these tests."""
    for name, text in AGENTS.items():
        (folder / f"{name}.yaml").write_text(text)
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "start" / "run.sh").chmod(0o755)
    return folder


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("bubblewrap", marks=pytest.mark.bwrap),
        pytest.param("docker", marks=pytest.mark.docker),
    ],
)
def scene(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """With spares, as users have it."""
    kind: str = request.param
    need({"docker": "docker", "bubblewrap": "bwrap"}[kind])
    need("redis")
    settings = {
        "AGCLUSTER_AGENTS_DIR": str(written(tmp_path_factory.mktemp("agents"))),
        "AGCLUSTER_MODELS": f"claude-sonnet-4-5-20250929,{NEW}",
        "AGCLUSTER_SPARES_MAX": "1",
        "AGCLUSTER_AGENT_IMAGES": "agcluster-test-own:1,agcluster-never-built:0",
    }
    with embedded(kind, **settings) as deployment:
        yield deployment


DOCKER_ONLY = pytest.mark.parametrize(
    "scene", [pytest.param("docker", marks=pytest.mark.docker)], indirect=True
)
ONE_KIND = pytest.mark.parametrize(
    "scene", [pytest.param("bubblewrap", marks=pytest.mark.bwrap)], indirect=True
)
"""For what no isolation has a part in."""


def ask(scene: Deployment, agent: str, prompt: str, **more: Any) -> ChatCompletion:
    with scene.client() as client:
        answer: ChatCompletion = client.chat.completions.create(
            model=agent, messages=[{"role": "user", "content": prompt}], **more
        )
        return answer


def said(answer: ChatCompletion) -> str:
    return answer.choices[0].message.content or ""


@ONE_KIND
def test_its_effort_is_on_the_wire(scene: Deployment) -> None:
    for more, effort in (({}, "low"), ({"reasoning_effort": "high"}, "high"), ({}, "low")):
        ask(scene, "thinker", f"echo {uuid.uuid4().hex}", **more)
        assert last_asked(scene)["output_config"]["effort"] == effort


@ONE_KIND
def test_its_tools_are_shown_where_it_says(scene: Deployment) -> None:
    prompt = "tool bash echo shown-here then echo end"
    assert "Bash" in said(ask(scene, "teller", prompt))
    assert said(ask(scene, "plain", prompt)) == "end"
    hidden = ask(scene, "teller", prompt, extra_headers={"X-AgCluster-Tool-Display": "off"})
    assert said(hidden) == "end"


@ONE_KIND
def test_what_it_makes_is_shown_as_it_says(scene: Deployment) -> None:
    prompt = "tool bash mkdir -p outputs && echo 1 > outputs/a.csv then echo made"
    seen = {}
    for agent in ("plain", "citing", "silent"):
        answer = ask(scene, agent, prompt)
        (file,) = answer.model_dump()["agcluster"]["files"]
        assert file["path"] == "outputs/a.csv", "programs find it in any case"
        seen[agent] = (
            file["url"] in said(answer),
            len(answer.choices[0].message.annotations or ()),
        )
    assert seen == {"plain": (True, 0), "citing": (False, 1), "silent": (False, 0)}


def history(scene: Deployment, chat: list[Any], agent: str, prompt: str) -> str:
    """One more turn of a chat, which resends what it sees."""
    chat.append({"role": "user", "content": prompt})
    with scene.client() as client:
        told = said(client.chat.completions.create(model=agent, messages=chat))
    chat.append({"role": "assistant", "content": told})
    return told


def test_it_uses_its_skills_and_no_others(scene: Deployment) -> None:
    mark = uuid.uuid4().hex
    ask(scene, "skilled", f'tool Skill {{"skill": "agent:house-style", "args": "{mark}"}}')
    asked = json.dumps(last_asked(scene))
    assert "How texts are written in this house." in asked, "the model knows of it"
    assert "Write with the word BILLYWITCH." in asked, "and reads it when it uses it"
    for other in ("agent:other", "simplify"):
        ask(scene, "skilled", f'tool Skill {{"skill": "{other}"}} then echo {mark}')
        assert "OTHERWISE" not in json.dumps(last_asked(scene))
    ask(scene, "plain", f"echo {mark}")
    assert "house-style" not in json.dumps(last_asked(scene))


def test_its_skills_are_there_to_read_and_not_to_change(scene: Deployment) -> None:
    folder = "/run/bundle/plugin/skills/house-style"
    assert "BILLYWITCH" in said(ask(scene, "skilled", f"tool bash cat {folder}/words.txt"))
    for change in (f"echo x > {folder}/words.txt", f"rm {folder}/words.txt", f"mv {folder} /tmp/"):
        assert "Read-only" in said(ask(scene, "skilled", f"tool bash {change} 2>&1")), change
    assert "No such file" in said(ask(scene, "plain", "tool bash ls /run/bundle 2>&1"))


def test_a_new_workspace_has_its_files_and_an_old_one_keeps_its_own(scene: Deployment) -> None:
    chat: list[Any] = []
    looks = "tool bash cat notes/README.md; echo; ./run.sh; id -u; stat -c %u run.sh"
    told = history(scene, chat, "skilled", looks)
    assert "Begin here." in told
    assert "it-runs" in told
    own, owner = [line for line in told.splitlines() if line.strip().isdigit()]
    assert own == owner, "they are the agent's own"
    other: list[Any] = []
    mark = uuid.uuid4().hex
    history(scene, other, "plain", f"tool bash mkdir notes; echo {mark} > notes/README.md")
    told = history(scene, other, "skilled", "tool bash cat notes/README.md; ls")
    assert mark in told
    assert "run.sh" not in told


def test_another_agents_skills_come_in_the_middle_and_files_stay(scene: Deployment) -> None:
    chat: list[Any] = []
    mark = uuid.uuid4().hex
    history(scene, chat, "skilled", f"tool bash echo {mark} > kept; ls /run/bundle/plugin/skills")
    assert "house-style" in chat[-1]["content"]
    told = history(scene, chat, "other", "tool bash cat kept; ls /run/bundle/plugin/skills")
    assert mark in told
    assert "other" in told
    assert "house-style" not in told
    told = history(scene, chat, "plain", "tool bash cat kept; ls /run/bundle 2>&1")
    assert mark in told
    assert "No such file" in told
    assert mark in history(scene, chat, "skilled", "history")


def test_a_server_in_the_container_is_its_own_program(scene: Deployment) -> None:
    answer = ask(scene, "local", 'tool mcp__tiny__shout {"text": "good day"}')
    said = answer.choices[0].message.content or ""
    assert "GOOD DAY" in said
    assert "GREETING" in said
    assert "ANTHROPIC" not in said
    assert "tiny: shout: good day" in str(answer.choices[0].message.model_extra)


def inspected(scene: Deployment) -> list[Any]:
    """The agents' containers of a Docker deployment."""
    ids = scene.containers()
    done = subprocess.run(
        ["docker", "inspect", *ids], capture_output=True, text=True, check=True, timeout=30
    )
    return list(json.loads(done.stdout))


def test_its_limits_hold_beside_agents_with_more(scene: Deployment) -> None:
    chat: list[Any] = []
    history(scene, chat, "plain", "tool bash echo here > kept")
    told = history(scene, chat, "small", "tool bash cat kept; echo processes: $(ulimit -u)")
    assert "here" in told, "files stay"
    if scene.kind == "docker":
        [one] = [one for one in inspected(scene) if "memory_mb" in json.dumps(one["Config"])]
        limits = one["HostConfig"]
        assert limits["Memory"] == limits["MemorySwap"] == 512 * 1024 * 1024
        assert (limits["NanoCpus"], limits["PidsLimit"]) == (5 * 10**8, 128)
    elif os.getuid() != 0:
        assert "processes: 128" in told
    elif (groups := CgroupRoot.find()) is not None:
        limited = [file.read_text() for home in groups.folders for file in home.glob("*/pids.max")]
        assert "128\n" in limited
    assert "here" in history(scene, chat, "plain", "tool bash cat kept")


def test_its_workspace_is_as_small_as_it_says(scene: Deployment) -> None:
    writes, size = "tool bash head -c 60M /dev/zero > a; wc -c < a", str(60 * 1024**2)
    assert size in said(ask(scene, "plain", writes))
    assert size not in said(ask(scene, "small", writes)), "a file is bounded at once"


@pytest.fixture(scope="module")
def own_image() -> None:
    """An image of an agent's own: the agents' one, with something more in it."""
    dockerfile = f"FROM {AGENT_IMAGE}\nENV OWN_MARK=of-its-own\n"
    command = ["docker", "build", "-q", "-t", "agcluster-test-own:1", "-"]
    subprocess.run(command, input=dockerfile.encode(), check=True, timeout=60)


@DOCKER_ONLY
@pytest.mark.usefixtures("own_image")
def test_it_works_in_its_own_image_and_others_do_not(scene: Deployment) -> None:
    looks = "tool bash echo mark: $OWN_MARK; cat kept 2>&1"
    chat: list[Any] = []
    assert "of-its-own" in history(scene, chat, "imaged", f"{looks}; echo here > kept")
    told = history(scene, chat, "plain", looks)
    assert "of-its-own" not in told
    assert "here" in told
    assert "of-its-own" in history(scene, chat, "imaged", looks)


def test_an_image_that_is_not_there_is_told_and_others_go_on(scene: Deployment) -> None:
    with pytest.raises(openai.InternalServerError, match="needs an image of its own"):
        ask(scene, "missing", "echo hi")
    assert said(ask(scene, "plain", "echo goes-on")) == "goes-on"
