"""A deployment with spares: a newcomer's first turn runs in one, and nobody sees a difference."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator

import pytest

from tests.e2e.deployments import MODEL, Deployment, embedded, wait_until
from tests.parts import need

pytestmark = [pytest.mark.sdk, pytest.mark.timeout(240)]

IDLE_TIMEOUT_S = 4
KINDS = [
    pytest.param("bubblewrap", marks=pytest.mark.bwrap),
    pytest.param("docker", marks=pytest.mark.docker),
]


@pytest.fixture(scope="module", params=KINDS)
def pooled(request: pytest.FixtureRequest) -> Iterator[Deployment]:
    need("sdk")
    need({"bubblewrap": "bwrap"}.get(request.param, request.param))
    with embedded(
        request.param, AGCLUSTER_SPARES_MAX="1", AGCLUSTER_IDLE_TIMEOUT_S=str(IDLE_TIMEOUT_S)
    ) as deployment:
        yield deployment


def said(deployment: Deployment, line: str) -> int:
    """How often its log says something."""
    return len(re.findall(line, deployment.output()))


def until_spare(deployment: Deployment) -> None:
    """Until there is a spare that nobody has claimed."""
    wait_until(
        "a spare",
        lambda: said(deployment, "spare ready") > said(deployment, "spare claimed"),
        90,
    )


def ask(deployment: Deployment, name: str, prompt: str) -> str:
    answer = deployment.client().chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": prompt}],
        extra_headers={"X-Conversation-ID": name},
    )
    return answer.choices[0].message.content or ""


def test_a_newcomer_gets_a_spare_keeps_it_and_comes_back_to_its_files(pooled: Deployment) -> None:
    assert pooled.data_dir is not None
    name, claims = f"pool-{uuid.uuid4().hex[:8]}", said(pooled, "spare claimed")
    until_spare(pooled)

    assert "here: /workspace" in ask(
        pooled, name, "tool bash echo kept-4711 > note.txt; echo here: $(pwd)"
    )
    assert said(pooled, "spare claimed") == claims + 1
    notes = list((pooled.data_dir / "w").glob("[!.]*/note.txt"))
    assert [note.read_text() for note in notes] == ["kept-4711\n"]
    (record,) = (p for p in (pooled.data_dir / "p").iterdir() if 'claimed_by": "' in p.read_text())
    assert notes[0].parent.name in record.read_text()
    assert notes[0].parent.name != record.name

    assert "kept-4711" in ask(pooled, name, "tool read /workspace/note.txt")
    assert said(pooled, "spare claimed") == claims + 1, "its second turn went elsewhere"

    wait_until("the idle stop", lambda: said(pooled, "conversation left") > 0, 60)
    until_spare(pooled)
    assert "kept-4711" in ask(pooled, name, "tool bash cat note.txt")
    assert said(pooled, "spare claimed") == claims + 2, "it came back to a spare"


def test_two_newcomers_see_nothing_of_each_other(pooled: Deployment) -> None:
    for n in range(2):
        until_spare(pooled)
        told = ask(pooled, f"alone-{n}-{uuid.uuid4().hex[:6]}", "tool bash ls -A; echo mine > x")
        assert "x" not in told.removeprefix("tool said:").split()
