"""Fields of an agent's profile whose effect is seen only with everything in its place: what the
model is asked, and what is in the container."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai.types.chat import ChatCompletion

from tests.e2e.deployments import Deployment, embedded
from tests.e2e.upstream import last_asked
from tests.parts import need

pytestmark = pytest.mark.timeout(240)

NEW = "claude-opus-5-5"
"""A model with levels of effort."""
AGENTS = {
    "plain": "",
    "thinker": f"models: [{NEW}]\neffort: low\n",
    "teller": "tool_display: text\n",
    "citing": "artifact_display: annotations\n",
    "silent": "artifact_display: 'off'\n",
}


def written(folder: Path) -> Path:
    """A folder with the agents of these tests."""
    for name, text in AGENTS.items():
        (folder / f"{name}.yaml").write_text(text)
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
    }
    with embedded(kind, **settings) as deployment:
        yield deployment


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
