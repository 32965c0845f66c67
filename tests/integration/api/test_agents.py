"""An operator's agents are picked as `model`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from infra.wire.options import Effort
from tests.fakes.running_api import MODEL, running_api, until

OPUS, HAIKU = "claude-opus-4-5-20251101", "claude-haiku-4-5-20251001"
REVIEWER = f"""
description: Reads patches.
icon: "🔍"
url: https://example.com/reviewer
system_prompt: You review.
models: [claude-opus-4.5, {HAIKU}]
model: {HAIKU}
egress_profile: pip
idle_timeout_s: 77
turn_deadline_s: 55
"""
EGRESS = {"pip": {"policy": "none"}, "all": {"policy": "public"}}


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, object]:
    (tmp_path / "reviewer.yaml").write_text(REVIEWER)
    (tmp_path / "private.yaml").write_text(f"tenants: [{'0' * 20}]\n")
    return {"agents_dir": tmp_path, "egress_profiles": EGRESS, "system_prompt": "The usual one."}


async def test_a_turn_says_which_agent_and_which_version(settings: dict[str, object]) -> None:
    async with running_api(settings=settings) as api:
        for name, model in (("reviewer", HAIKU), ("reviewer/claude-opus-4.5", OPUS)):
            answer = await api.chat("hi", model=name)
            assert answer.status_code == 200, answer.text
            assert answer.json()["model"] == name
            asked = api.worker.requests[-1]
            assert asked.model == model
            assert asked.agent is not None
            assert asked.agent.name == "reviewer"
            assert asked.system_prompt is None
            assert asked.options.egress_profile == "pip"
            assert (asked.idle_timeout_s, asked.deadline_s) == (77, 55)
            profile = await api.store.profiles.get(asked.agent.digest)
            assert profile is not None
            assert profile.digest == asked.agent.digest
        assert asked.agent is not None
        kept = await api.store.redis.get(api.store.keys.agent_profile(asked.agent.digest))
        assert json.loads(kept)["system_prompt"] == {"text": "You review."}
        await api.chat("hi there", model=MODEL)
        assert (api.worker.requests[-1].agent, api.worker.requests[-1].system_prompt) == (
            None,
            "The usual one.",
        )


@pytest.mark.parametrize(
    "name", ["nobody", "reviewer/claude-sonnet-4.5", "reviewer/none", "private", "reviewer/"]
)
async def test_what_is_no_agent_is_no_model(settings: dict[str, object], name: str) -> None:
    async with running_api(settings=settings) as api:
        answer = await api.chat("hi", model=name)
        if name == "reviewer/":
            assert answer.status_code == 200
            return
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "model_not_found"
        assert not api.worker.requests


async def test_an_agents_egress_is_not_the_clients_to_choose(settings: dict[str, object]) -> None:
    async with running_api(settings=settings) as api:
        headers = {"X-AgCluster-Egress-Profile": "all"}
        refused = await api.chat("hi", model="reviewer", headers=headers)
        assert refused.status_code == 400
        assert "goes out by the egress profile `pip`" in refused.json()["error"]["message"]
        taken = await api.chat("hi", headers=headers)
        assert taken.status_code == 200


async def test_its_effort_is_the_clients_to_change(
    settings: dict[str, object], tmp_path: Path
) -> None:
    (tmp_path / "thinker.yaml").write_text("effort: low\n")
    async with running_api(settings=settings) as api:
        for fields, effort in (({}, Effort.LOW), ({"reasoning_effort": "high"}, Effort.HIGH)):
            assert (await api.chat("hi", model="thinker", **fields)).status_code == 200
            assert api.worker.requests[-1].turn_options.effort is effort
        await api.chat("hi there", model=MODEL)
        assert api.worker.requests[-1].turn_options.effort is None


async def test_a_client_s_functions_are_offered_as_the_agent_says(
    settings: dict[str, object], tmp_path: Path
) -> None:
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    for name in ("on", "off"):
        (tmp_path / f"tools-{name}.yaml").write_text(f"client_tools: {name}\n")
    async with running_api(settings=settings) as api:
        for name in ("on", "off"):
            assert (await api.chat("hi", model=f"tools-{name}", tools=tools)).status_code == 200
            offered = api.worker.requests[-1].turn_options.client_tools
            assert (offered is not None) is (name == "on")


async def test_an_agent_may_answer_in_text_only(
    settings: dict[str, object], tmp_path: Path
) -> None:
    (tmp_path / "talker.yaml").write_text("structured_output: off\n")
    (tmp_path / "former.yaml").write_text("structured_output: auto\n")
    form = {"response_format": {"type": "json_object"}}
    async with running_api(settings=settings) as api:
        refused = await api.chat("say json", model="talker", **form)
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == "response_format"
        assert "text only" in refused.json()["error"]["message"]
        await api.chat("say json", model="former", **form)
        assert api.worker.requests[-1].turn_options.answer_form is not None
        title = await api.chat("a title", model="talker", headers={"X-Task": "title"}, **form)
        assert title.status_code == 200, "no agent answers side requests"


async def test_agents_are_listed_for_those_who_may_use_them(settings: dict[str, object]) -> None:
    async with running_api(settings=settings) as api, api.openai() as client:
        listed = {model.id: model.model_dump() for model in (await client.models.list()).data}
        assert listed["reviewer"]["description"] == "Reads patches."
        assert listed["reviewer"]["icon"] == "🔍"
        assert listed["reviewer"]["url"] == "https://example.com/reviewer"
        assert listed["reviewer"]["context_length"] == listed[HAIKU]["context_length"]
        assert next(iter(listed)) != "reviewer", "some clients begin with the first"
        assert "private" not in listed
        assert MODEL in listed
        assert (await client.models.retrieve("reviewer")).id == "reviewer"
        assert (await client.models.retrieve("reviewer/claude-opus-4.5")).id.startswith("reviewer/")


async def test_an_edit_is_seen_without_a_restart(
    settings: dict[str, object], tmp_path: Path
) -> None:
    async with running_api(settings=settings) as api:
        (tmp_path / "new.yaml").write_text("description: Just written.\n")

        offered = api.deps.agents.offered
        await until(lambda: "new" in offered(None))
        assert (await api.chat("hi", model="new")).status_code == 200
