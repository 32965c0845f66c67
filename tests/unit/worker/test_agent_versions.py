"""Which version of an agent's profile a conversation works with."""

from __future__ import annotations

import pytest
from fakeredis import FakeAsyncRedis

from infra.runtime.clock import SystemClock
from infra.store.keys import Keys
from infra.store.profiles import ProfileStore
from infra.wire.agents.profile import AgentProfile
from infra.wire.agents.ref import AgentRef
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
