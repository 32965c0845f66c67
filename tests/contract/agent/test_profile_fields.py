"""Each field of a profile that a CLI is given, seen from the model or in its effect."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent.cli.setup import OUTPUTS_NOTE
from infra.wire.agents.sub_agent import SubAgent
from infra.wire.link import AgentSettings
from tests.fakes.contained_agent import scripted_model
from tests.fakes.link_client import LinkClient, connected, start_turn, text_of
from tests.fakes.local_agent import LocalAgent, local_agent
from tests.parts import need

pytestmark = [pytest.mark.sdk, pytest.mark.timeout(120)]

_numbers = itertools.count(1)
SONNET, HAIKU = "claude-sonnet-4-5-20250929", "claude-haiku-4-5-20251001"


@pytest.fixture(scope="module")
def model() -> Iterator[Path]:
    need("sdk")
    with scripted_model() as folder:
        yield folder / "model.sock"


@pytest.fixture(scope="module")
def agent(model: Path) -> Iterator[LocalAgent]:
    """One agent for all fields: each test changes its settings, as another profile would."""
    with local_agent(model) as one:
        yield one


async def calls_of(model: Path, link: LinkClient, prompt: str, **settings: Any) -> tuple[str, Any]:
    """What a turn with these settings said, and the newest call of the model's for it."""
    transport = httpx.AsyncHTTPTransport(uds=str(model))
    start = start_turn(f"p{next(_numbers)}", prompt, model=SONNET)
    chosen = AgentSettings.model_validate(start.settings.model_dump() | settings)
    said = text_of(await link.run(start.model_copy(update={"settings": chosen})))
    async with httpx.AsyncClient(transport=transport, base_url="http://model") as client:
        return said, (await client.get("/_script/last")).json()


async def test_an_added_prompt_stands_behind_claude_codes_own(
    model: Path, agent: LocalAgent
) -> None:
    async with connected(agent.socket) as (link, _):
        _, call = await calls_of(
            model, link, "echo a", tools=("Bash",), system_prompt="Be kind.", is_prompt_added=True
        )
        added = json.dumps(call["system"])
        _, call = await calls_of(model, link, "echo b", tools=("Bash",), system_prompt="Be curt.")
        alone = json.dumps(call["system"])
    assert "Claude Code" in added
    assert "Be kind." in added
    assert "Be curt." in alone
    assert "Be kind." not in alone
    assert OUTPUTS_NOTE in added
    assert alone.count(OUTPUTS_NOTE) == 1
    assert len(alone) < len(added) / 2


async def test_only_its_tools_are_there(model: Path, agent: LocalAgent) -> None:
    async with connected(agent.socket) as (link, _):
        _, call = await calls_of(model, link, "toolnames", tools=("Read", "Grep"))
        assert {tool["name"] for tool in call["tools"]} == {"Read", "Grep"}
        said, _ = await calls_of(model, link, "tool bash echo no", tools=("Read",))
    assert "No such tool" in said


async def test_its_variables_are_seen_by_its_tools_and_replace_none_of_ours(
    model: Path, agent: LocalAgent
) -> None:
    variables = {"GREETING": "good day", "ANTHROPIC_BASE_URL": "http://elsewhere"}
    async with connected(agent.socket) as (link, _):
        said, _ = await calls_of(
            model,
            link,
            'tool bash echo "$GREETING from $ANTHROPIC_BASE_URL"',
            tools=("Bash",),
            environment=variables,
        )
    assert "good day from http://model.agcluster" in said


async def test_a_sub_agent_has_its_own_prompt_tools_and_model(
    model: Path, agent: LocalAgent
) -> None:
    helper = SubAgent(
        description="Knows its own tools.",
        prompt="You are the finder.",
        tools=("Grep",),
        model="haiku",
    )
    asks = "tool Agent " + json.dumps(
        {"description": "find", "prompt": "{}", "subagent_type": "finder"}
    )
    async with connected(agent.socket) as (link, _):
        told = {}
        for fact in ("system", "toolnames", "model"):
            told[fact], _ = await calls_of(
                model,
                link,
                asks.replace('"{}"', json.dumps(fact)),
                tools=("Bash", "Task"),
                sub_agents={"finder": helper},
                model_tiers={"haiku": HAIKU},
            )
    assert "You are the finder." in told["system"]
    assert "Grep" in told["toolnames"]
    assert "Bash" not in told["toolnames"]
    assert HAIKU in told["model"]


async def test_a_sub_agents_model_calls_are_counted(model: Path, agent: LocalAgent) -> None:
    prompt = "tool bash echo helped-$((40+2))"
    asks = "tool Agent " + json.dumps(
        {"description": "d", "prompt": prompt, "subagent_type": "helper"}
    )
    told = {}
    async with connected(agent.socket) as (link, _):
        for most in (1, 9):
            helper = SubAgent(description="Helps.", prompt="Help.", max_turns=most)
            told[most], _ = await calls_of(
                model, link, asks, tools=("Bash", "Task"), sub_agents={"helper": helper}
            )
    assert "helped-42" not in told[1], "the second call would have told it"
    assert "helped-42" in told[9]


async def test_its_model_calls_are_counted(model: Path, agent: LocalAgent) -> None:
    async with connected(agent.socket) as (link, _):
        said, _ = await calls_of(
            model,
            link,
            "tool bash echo one then tool bash echo two then echo end",
            tools=("Bash",),
            max_turns=1,
        )
    assert "end" not in said


async def test_a_skill_is_text_and_runs_nothing_by_itself(model: Path, tmp_path: Path) -> None:
    """Claude Code would run what stands between ``!`` and backticks, whatever needs approval."""
    skill = tmp_path / "plugin" / "skills" / "sly" / "SKILL.md"
    skill.parent.mkdir(parents=True)
    (tmp_path / "plugin" / ".claude-plugin").mkdir()
    (tmp_path / "plugin" / ".claude-plugin" / "plugin.json").write_text('{"name": "agent"}')
    skill.write_text(
        "---\ndescription: Sly.\n---\nSee !`echo ran-$((40+2))`\n```!\necho ran-$((40+3))\n```\n"
    )
    with local_agent(model, bundle=tmp_path) as own:
        async with connected(own.socket) as (link, _):
            _, call = await calls_of(
                model,
                link,
                'tool Skill {"skill": "agent:sly"}',
                tools=("Bash", "Skill"),
                skills=("sly",),
            )
    told = json.dumps(call["messages"])
    assert "See " in told
    assert "ran-4" not in told
