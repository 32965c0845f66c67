"""A real agent over A2A: its tools, its question, what it makes, and what it remembers."""

from __future__ import annotations

import json
import uuid

import httpx
import pytest
from a2a.types import (
    GetTaskRequest,
    Part,
    TaskState,
)

from tests.e2e.conftest import KINDS
from tests.e2e.deployments import GOOD_KEY, Deployment
from tests.e2e.upstream import last_asked
from tests.fakes.a2a_client import a2a_client, ask, folded, message, said_by, text_of

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.parametrize("deployment", KINDS[1:2], indirect=True),
]


async def test_a_task_from_its_files_to_its_question_and_its_artifacts(
    deployment: Deployment,
) -> None:
    mark = uuid.uuid4().hex
    question = {"question": f"Go on with {mark}?", "options": [{"label": "yes"}, {"label": "no"}]}
    asks = f"tool AskUserQuestion {json.dumps({'questions': [question]})}"
    make = f"tool bash mkdir -p outputs && cp uploads/t.csv outputs/{mark}.csv"
    async with a2a_client(deployment.base_url, "reviewer", key=GOOD_KEY) as client:
        table = Part(raw=b"a,b\n", filename="t.csv", media_type="text/csv")
        updates = await ask(client, message(f"{asks} then {make} then echo done", table))
        id, context = updates[0].task.id, updates[0].task.context_id
        status = updates[-1].status_update.status
        assert status.state == TaskState.TASK_STATE_INPUT_REQUIRED
        assert f"Go on with {mark}?" in status.message.parts[0].text

        updates = await ask(client, message(f"the first-{mark}", task_id=id, context_id=context))
        assert {update.status_update.task_id for update in updates[1:]} <= {id, ""}
        assert updates[-1].status_update.status.state == TaskState.TASK_STATE_COMPLETED
        assert f"The user answered: the first-{mark}" in json.dumps(
            last_asked(deployment)["messages"]
        )
        lines = [
            update.status_update.status.message.parts[0].text
            for update in updates
            if "kind" in update.status_update.metadata
        ]
        assert any(line.startswith("Bash: ") for line in lines), lines

        task = await client.get_task(GetTaskRequest(id=id))
        [made] = [one for one in task.artifacts if one.name != "answer"]
        assert made.name == f"outputs/{mark}.csv"
        async with httpx.AsyncClient() as anybody:
            assert (await anybody.get(made.parts[0].url)).content == b"a,b\n"

        again = await ask(client, message("history", context_id=context))
        assert again[0].task.id != id
        [said] = [
            one.artifact_update.artifact.parts[0].text
            for one in again
            if one.HasField("artifact_update") and one.artifact_update.artifact.parts[0].text
        ]
        assert mark in said, "what was said before is remembered"


async def test_a_call_is_approved_by_the_next_message(deployment: Deployment) -> None:
    """The shipped code assistant asks before it pushes."""
    push = "tool bash echo git push >> pushed then echo (in its stead) then tool bash wc -l pushed"
    async with a2a_client(deployment.base_url, "code-assistant", key=GOOD_KEY) as client:
        first = folded(await ask(client, message(push)))
        assert first.status.state == TaskState.TASK_STATE_INPUT_REQUIRED
        assert "May I do this?" in said_by(first.status)
        second = folded(await ask(client, message("yes", task_id=first.id)))
        assert (second.id, second.status.state) == (first.id, TaskState.TASK_STATE_COMPLETED)
        assert "1 pushed" in text_of(second)
