"""An agent that ships with the product is picked as `model`, on every kind of deployment."""

from __future__ import annotations

import json
import uuid
from typing import Any

import openai
import pytest

from tests.e2e.conftest import COMPOSED
from tests.e2e.deployments import MODEL, Deployment
from tests.e2e.upstream import asked_for, last_asked

pytestmark = pytest.mark.timeout(240)


def ask(deployment: Deployment, model: str, seen: list[Any], text: str) -> str:
    """One more turn of the chat, which resends what it sees."""
    seen.append({"role": "user", "content": text})
    with deployment.client() as client:
        answer = client.chat.completions.create(model=model, messages=seen)
    said = answer.choices[0].message.content or ""
    seen.append({"role": "assistant", "content": said})
    return said


def test_an_agent_works_with_its_own_prompt_and_sub_agents(deployment: Deployment) -> None:
    task = f"toolnames {uuid.uuid4().hex}"
    call = {"description": "find", "prompt": task, "subagent_type": "finder"}
    ask(deployment, "reviewer", [], f"tool Agent {json.dumps(call)}")
    found = [call["facts"] for call in asked_for(deployment, task)]
    [finder] = [facts for facts in found if facts["prompt"].startswith("toolnames")]
    assert finder["tools"] == 3, "Grep, Glob and Read"


def test_a_chat_may_change_its_agent_and_forgets_nothing(deployment: Deployment) -> None:
    seen: list[Any] = []
    mark = uuid.uuid4().hex
    ask(deployment, "reviewer", seen, f"tool bash echo {mark} > kept; echo reviewed-{mark}")
    ask(deployment, MODEL, seen, f"tool bash cat kept then echo usual-{mark}")
    told = ask(deployment, "reviewer", seen, "history")
    assert f"reviewed-{mark}" in told
    assert f"usual-{mark}" in told


def test_an_agent_asks_in_plain_chat_and_goes_on_with_the_answer(deployment: Deployment) -> None:
    seen: list[Any] = []
    mark = uuid.uuid4().hex
    question = {"question": f"Go on with {mark}?", "options": [{"label": "yes"}, {"label": "no"}]}
    call = f"tool AskUserQuestion {json.dumps({'questions': [question]})}"
    shown = ask(deployment, "reviewer", seen, f"tool bash echo before then {call} then echo done")
    assert shown == f"**Go on with {mark}?**\n\n1. yes\n2. no"
    assert ask(deployment, "reviewer", seen, f"the first-{mark}") == "done"
    told = json.dumps(last_asked(deployment)["messages"])
    assert f"The user answered: the first-{mark}" in told
    assert "echo before" in told, "what was done before the question is remembered"


def test_who_asks_for_no_agent_is_told(deployment: Deployment) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        ask(deployment, "no-such-agent", [], "hi")
    assert refused.value.code == "model_not_found"
    with deployment.client() as client:
        assert "reviewer" in {model.id for model in client.models.list()}


@COMPOSED
def test_skills_files_and_limits_pass_the_engine_proxy(deployment: Deployment) -> None:
    seen: list[Any] = []
    told = ask(deployment, "skilled", seen, "tool bash cat README.md; ls /run/bundle/plugin/skills")
    assert "Begin here." in told
    assert "house-style" in told
    call = f'tool Skill {{"skill": "agent:house-style", "args": "{uuid.uuid4().hex}"}}'
    ask(deployment, "skilled", seen, call)
    assert "BILLYWITCH" in json.dumps(last_asked(deployment)["messages"])
    told = ask(deployment, MODEL, seen, "tool bash cat README.md; ls /run/bundle 2>&1; true")
    assert "Begin here." in told
    assert "No such file" in told
