"""Versions of agents, and their files: kept by digest."""

from __future__ import annotations

from infra.wire.agents.bundle import BundleFile, bundle_digest, pack
from infra.wire.agents.profile import AgentProfile
from tests.contract.store.scene import Scene

RAW = pack({"workspace/a": BundleFile(b"\x00\xff" * 1000)})
PROFILE = AgentProfile(workspace="start", bundle=bundle_digest(RAW))


async def test_a_bundle_is_kept_with_its_profile_and_as_long(scene: Scene) -> None:
    profiles, key = scene.store.profiles, scene.keys.agent_bundle(bundle_digest(RAW))
    assert await profiles.bundle(bundle_digest(RAW)) is None
    digest = await profiles.keep(PROFILE, ttl_s=50, bundle=RAW)
    assert await profiles.get(digest) == PROFILE
    assert await profiles.bundle(bundle_digest(RAW)) == RAW
    assert 40_000 < await scene.redis.pttl(key) <= 50_000
    # The replica that keeps it anew does not need the files any more.
    await profiles.keep(PROFILE, ttl_s=90, bundle=None)
    assert 80_000 < await scene.redis.pttl(key) <= 90_000
    await profiles.keep(AgentProfile(), ttl_s=90)
    await scene.redis.delete(key)
    await profiles.keep(PROFILE, ttl_s=90, bundle=RAW)
    assert await profiles.bundle(bundle_digest(RAW)) == RAW
