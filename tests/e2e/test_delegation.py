"""An agent calls another one, each in a container of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.e2e.deployments import Deployment, embedded
from tests.parts import need

pytestmark = [pytest.mark.docker, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    need("docker")
    need("redis")
    agents = tmp_path_factory.mktemp("agents")
    (agents / "lead.yaml").write_text("delegates: [analyst]\n")
    (agents / "analyst.yaml").write_text("description: Counts.\ntools: [Bash]\n")
    with embedded("docker", AGCLUSTER_AGENTS_DIR=str(agents)) as one:
        yield one


def test_a_called_agent_works_in_its_own_container_and_hands_its_files_over(
    deployment: Deployment,
) -> None:
    work = "tool bash mkdir -p outputs && echo a,b > outputs/table.csv && hostname"
    call = f"tool delegate {json.dumps({'agent': 'analyst', 'task': work})}"
    look = "tool bash cat /workspace/from-analyst/table.csv; ls outputs; hostname"
    with deployment.client() as client:
        answer = client.chat.completions.create(
            model="lead", messages=[{"role": "user", "content": f"{call} then {look}"}]
        )
        listed = client.get("/sessions", cast_to=object)
    message = answer.choices[0].message
    shown = str((message.model_extra or {}).get("reasoning_content"))
    assert "delegate: analyst: tool bash" in shown
    assert "  Bash: mkdir -p outputs" in shown, "what it does is shown below the call"
    said = message.content or ""
    assert "a,b" in said
    assert "table.csv" in said, "the user gets it, too"
    assert "No such file" in said, "its own folder is not the caller's"
    assert len(listed["data"]) == 1, "called conversations are in no list"  # type: ignore[index]
