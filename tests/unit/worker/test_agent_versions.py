"""Which version of an agent's profile a conversation works with."""

from __future__ import annotations

import json

import pytest
from fakeredis import FakeAsyncRedis

from infra.runtime.clock import SystemClock
from infra.store.keys import Keys
from infra.store.profiles import ProfileStore
from infra.wire.agents.mcp import McpServer
from infra.wire.agents.permissions import Permissions
from infra.wire.agents.profile import AgentProfile
from infra.wire.agents.ref import AgentRef
from infra.wire.agents.sub_agent import SubAgent
from infra.wire.errors import MalformedMessage
from worker.conversations.agent_versions import AgentVersions, ProfileGone


def store() -> ProfileStore:
    return ProfileStore(FakeAsyncRedis(), Keys("agc"))


async def kept(profiles: ProfileStore, name: str, description: str) -> AgentRef:
    profile = AgentProfile(description=description)
    return AgentRef(name=name, digest=await profiles.keep(profile, ttl_s=60))


async def test_a_conversation_keeps_the_version_it_began_with() -> None:
    profiles = store()
    versions = AgentVersions(profiles, SystemClock())
    first, second = await kept(profiles, "a", "first"), await kept(profiles, "a", "second")
    other = await kept(profiles, "b", "other")
    told = [await versions.of(agent) for agent in (first, second, other, second, None, first)]
    assert [one.description if one else None for one in told] == [
        "first", "first", "other", "second", None, "first"
    ]  # fmt: skip


async def test_another_process_finds_what_one_has_kept() -> None:
    redis = FakeAsyncRedis()
    ref = await kept(ProfileStore(redis, Keys("agc")), "a", "kept")
    found = await AgentVersions(ProfileStore(redis, Keys("agc")), SystemClock()).of(ref)
    assert found == AgentProfile(description="kept")


async def test_a_version_that_nobody_keeps_is_an_error() -> None:
    with pytest.raises(ProfileGone):
        await AgentVersions(store(), SystemClock()).of(AgentRef(name="a", digest="0" * 32))


@pytest.mark.parametrize(
    "later",
    [
        {"seal": True},
        {"permissions": {"mode": "ask", "nobody": ["Bash"]}},
        {"mcp_servers": {"notes": {"url": "https://a.example/", "only": ["read"]}}},
        {"sub_agents": {"a": {"description": "d", "prompt": "p", "deny": ["Bash"]}}},
        {"container": {"memory_mb": 512, "disk_mb": 1}},
        {"system_prompt": {"text": "t", "signed": "x"}},
        {"permissions": {"mode": "strict"}},
    ],
)
async def test_a_profile_of_a_later_version_is_not_half_obeyed(later: dict[str, object]) -> None:
    redis, keys = FakeAsyncRedis(), Keys("agc")
    await redis.set(keys.agent_profile("0" * 32), json.dumps(later))
    versions = AgentVersions(ProfileStore(redis, keys), SystemClock())
    with pytest.raises(MalformedMessage):
        await versions.of(AgentRef(name="a", digest="0" * 32))


async def test_all_that_a_profile_may_say_is_read() -> None:
    redis, keys = FakeAsyncRedis(), Keys("agc")
    said = AgentProfile(
        sub_agents={"a": SubAgent(description="d", prompt="p", tools=("Read",))},
        mcp_servers={"notes": McpServer(url="https://a.example/", headers={"X-A": "${B}"})},
        permissions=Permissions(mode="ask", ask=("Bash",)),
        environment={"ANY_NAME": "x"},
    )
    digest = await ProfileStore(redis, keys).keep(said, ttl_s=60)
    assert await ProfileStore(redis, keys).get(digest) == said
