"""What a turn's gateway and agent are told of its agent's profile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from infra.runtime.settings import Settings
from infra.store.mcp_seen import SEEN_TTL_S
from infra.wire.agents.delegation import CallingTurn, Delegation
from infra.wire.agents.mcp import McpServer
from infra.wire.agents.permissions import Permissions
from infra.wire.agents.profile import AgentProfile, SystemPrompt
from infra.wire.agents.ref import AgentRef
from infra.wire.agents.sub_agent import SubAgent
from infra.wire.errors import ErrorCode
from infra.wire.events import TurnEnded
from infra.wire.ids import ConversationKey, TurnId
from infra.wire.link import AgentSettings, McpServers
from infra.wire.mcp.secrets import AgentMcpServer, CallerSecrets, ServerSeen
from infra.wire.options import TurnOptions
from infra.wire.states import TurnState
from infra.wire.turns import TextBlock, TurnRequest
from tests.fakes.worker_stage import TENANT, Stage
from worker.turns.agent_settings import agent_settings, models_of_turn
from worker.turns.mcp_servers import mcp_servers, missing_notices

C = ConversationKey("c" * 24)
SETTINGS = Settings.model_validate({"turn_budget_tokens": 1000, "questions": False})
HAIKU, OPUS = "claude-haiku-4-5-20251001", "claude-opus-4-5-20251101"


@pytest.fixture
async def stage(redis: Redis) -> AsyncIterator[Stage]:
    async with Stage(redis, turn_budget_tokens=1000) as stage:
        await stage.worker()
        yield stage


async def kept(stage: Stage, profile: AgentProfile) -> AgentRef:
    return AgentRef(name="a", digest=await stage.store.profiles.keep(profile, ttl_s=60))


async def opened(stage: Stage, profile: AgentProfile) -> TurnEnded:
    """A whole turn of that agent; the gateway remembers what it was told."""
    turn = await stage.ask(C, "echo hi", agent=await kept(stage, profile))
    return await stage.ended(turn)


@pytest.mark.parametrize(("own", "told"), [(70, 70), (5000, 1000), (None, 1000)])
async def test_the_smaller_budget_counts(stage: Stage, own: int | None, told: int) -> None:
    assert (await opened(stage, AgentProfile(turn_budget_tokens=own))).state is TurnState.DONE
    assert stage.gateway.opened[-1].budget_tokens == told


async def test_the_gateway_knows_its_servers_and_models(stage: Stage) -> None:
    servers = {"echo": McpServer(url="https://mcp.example.com/")}
    await opened(stage, AgentProfile(mcp_servers=servers, models=(HAIKU,)))
    command = stage.gateway.opened[-1]
    assert command.mcp_servers == servers
    assert set(command.models) == {"claude-test", HAIKU}


async def test_a_turn_whose_profile_is_gone_ends(stage: Stage) -> None:
    turn = await stage.ask(C, "echo hi", agent=AgentRef(name="a", digest="0" * 32))
    end = await stage.ended(turn)
    assert end.error is not None
    assert end.error.code is ErrorCode.INTERNAL
    assert (await stage.ended(await stage.ask(C, "echo next"))).state is TurnState.DONE


def request(system_prompt: str | None = None) -> TurnRequest:
    return TurnRequest(
        turn=TurnId("turn_1"),
        conversation=C,
        tenant=TENANT,
        model=OPUS,
        system_prompt=system_prompt,
        prompt=(TextBlock(text="hi"),),
        deadline_s=1,
        idle_timeout_s=1,
    )


def test_the_agent_is_told_what_its_profile_says() -> None:
    profile = AgentProfile(
        system_prompt=SystemPrompt(text="You review.", mode="append"),
        tools=("Read",),
        max_turns=3,
        questions=True,
        permissions=Permissions(ask=("Bash",)),
        environment={"A": "b"},
        mcp_servers={"echo": McpServer(url="https://mcp.example.com/")},
        sub_agents={"finder": SubAgent(description="d", prompt="p", model=HAIKU)},
    )
    told = agent_settings(request("Be brief."), SETTINGS, SETTINGS, profile=profile)
    assert told.system_prompt == "You review.\n\nBe brief."
    assert told.is_prompt_added
    assert (told.tools, told.max_turns, told.asks_questions) == (("Read",), 3, True)
    assert (told.environment, list(told.mcp)) == ({"A": "b"}, ["echo"])
    assert told.sub_agents == profile.sub_agents
    assert told.permissions == profile.permissions
    assert told.model == OPUS


def test_an_agent_is_told_that_another_one_asks() -> None:
    def told(caller: CallingTurn | None) -> bool:
        asked = request().model_copy(update={"delegation": Delegation(caller=caller)})
        return agent_settings(asked, SETTINGS, SETTINGS, profile=AgentProfile()).is_called

    assert told(CallingTurn(turn=TurnId("turn_0"), conversation=C))
    assert not told(None)
    assert not agent_settings(request(), SETTINGS, SETTINGS).is_called


def test_permissions_are_laid_over_the_deployments_field_by_field() -> None:
    strict = Settings.model_validate(
        {"permissions": '{"mode":"ask","ask":["Bash(rm:*)"],"deny":["WebSearch"]}'}
    )

    def told(**fields: Any) -> Permissions:
        profile = AgentProfile(permissions=Permissions(**fields))
        return agent_settings(request(), strict, strict, profile=profile).permissions

    assert told(ask=(), always="turn") == Permissions(
        mode="ask", ask=(), deny=("WebSearch",), always="turn"
    )
    many = tuple(f"T{n}" for n in range(200))
    settings = agent_settings(
        request(),
        strict.model_copy(
            update={"permissions": Permissions(deny=tuple(f"U{n}" for n in range(200)))}
        ),
        strict,
        profile=AgentProfile(permissions=Permissions(deny=many)),
    )
    assert AgentSettings.model_validate_json(settings.encode()).permissions == settings.permissions
    assert told(mode="default", ask=(), deny=("Read",)).deny == ("WebSearch", "Read")
    free = agent_settings(
        request(), SETTINGS, SETTINGS, profile=AgentProfile(permissions=Permissions(always="turn"))
    )
    assert free.permissions == Permissions(), "nothing is held back"
    assert agent_settings(request(), strict, strict).permissions.mode == "ask"


def test_a_profile_that_says_nothing_changes_nothing() -> None:
    usual = agent_settings(request("Be brief."), SETTINGS, SETTINGS)
    assert agent_settings(request("Be brief."), SETTINGS, SETTINGS, profile=AgentProfile()) == usual


def test_models_of_its_own_are_all_that_its_helpers_get() -> None:
    profile = AgentProfile(models=("claude-haiku-4.5",))
    told = agent_settings(request(), SETTINGS, SETTINGS, profile=profile)
    assert set(told.model_tiers.values()) == {HAIKU}
    assert models_of_turn(request(), SETTINGS, profile=profile) == (OPUS, HAIKU)


PERSONAL = AgentProfile(
    mcp_servers={
        "echo": McpServer(url="https://mcp.example.com/"),
        "mine": McpServer(
            url="https://mcp.example.com/", headers={"X-Key": "${caller:MY_KEY}"}, timeout_s=9
        ),
    }
)
SENT = CallerSecrets(names=("MY_KEY",), sealed="v1.sealed", version="v7")


def test_an_agent_has_the_servers_whose_secrets_its_caller_sends() -> None:
    assert list(mcp_servers(PERSONAL, None, ())) == ["echo"]
    # A session with a server belongs to one secret, so another one has the CLI started anew.
    assert mcp_servers(PERSONAL, SENT, ()) == {
        "echo": AgentMcpServer(timeout_s=300),
        "mine": AgentMcpServer(timeout_s=9, secrets_version="v7"),
    }
    assert missing_notices(PERSONAL, SENT, ()) == ()
    assert "X-AgCluster-MCP-MY-KEY" in missing_notices(PERSONAL, None, ())[0]


async def test_what_a_caller_sends_reaches_each_owners_gateway_and_no_agent(stage: Stage) -> None:
    turn = await stage.ask(
        C,
        "stream 50 every 10 ms",
        agent=await kept(stage, PERSONAL),
        turn_options=TurnOptions(mcp_secrets=SENT),
    )
    await stage.until_logged(turn, 5)
    await stage.workers[0].kill()
    await stage.lapse_lease(C)
    await stage.worker()
    assert (await stage.ended(turn)).state is TurnState.DONE
    assert len(stage.gateway.opened) > 1
    assert all(command.turn_options.mcp_secrets == SENT for command in stage.gateway.opened)
    started = stage.agents[C][0].session.started
    assert [start.turn_options.mcp_secrets for start in started] == [None]


async def test_how_its_servers_are_is_kept_for_operators(stage: Stage) -> None:
    told = McpServers(
        servers=(
            ServerSeen(name="echo", status="connected", tools=3),
            ServerSeen(name="mine", status="failed", detail="no licence"),
            ServerSeen(name="made-up", status="connected"),
        )
    )
    turn = await stage.ask(C, "stream 50 every 10 ms", agent=await kept(stage, PERSONAL))
    await stage.until_logged(turn, 2)
    stage.agents[C][0].session.tell(told)
    await stage.ended(turn)
    async with asyncio.timeout(10):
        while not (seen := await stage.store.mcp_seen.of("a")):  # noqa: ASYNC110 - Redis tells nobody
            await asyncio.sleep(0.01)
    assert {name: (one.status, one.tools, one.detail) for name, one in seen.items()} == {
        "echo": ("connected", 3, ""),
        "mine": ("failed", 0, "no licence"),
    }
    assert 0 < await stage.redis.ttl(stage.keys.mcp_seen("a")) <= SEEN_TTL_S
