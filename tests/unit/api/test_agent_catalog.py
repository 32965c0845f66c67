"""Replicas keep what they offer where workers find it."""

from __future__ import annotations

from pathlib import Path

import httpx
from fakeredis import FakeAsyncRedis

from api.access.agents import KEPT_ANEW_S, AgentCatalog
from api.access.catalog import ModelCatalog
from api.http.auth import Caller
from infra.profiles.folder import ProfileFolder
from infra.runtime.settings import Settings
from infra.store.keys import Keys
from infra.store.profiles import ProfileStore
from infra.wire.ids import TenantId
from tests.fakes.manual_clock import ManualClock

CALLER = Caller(api_key="sk-ant-x", tenant=TenantId("t" * 20))
SETTINGS = Settings.model_validate({"upstream_models": False})


async def test_a_version_that_redis_has_lost_is_kept_again(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("description: x\n")
    folder, redis, clock = ProfileFolder(tmp_path), FakeAsyncRedis(), ManualClock()
    folder.look()
    async with httpx.AsyncClient() as upstream:
        catalog = AgentCatalog(
            folder,
            models=ModelCatalog(SETTINGS, upstream, clock),
            profiles=ProfileStore(redis, Keys("agc")),
            default_model=SETTINGS.models[0],
            keep_s=1000,
            clock=clock,
        )
        chosen = await catalog.choose("a", CALLER)
        assert chosen is not None
        assert chosen.agent is not None
        key = Keys("agc").agent_profile(chosen.agent.digest)
        assert 0 < await redis.pttl(key) <= 1_000_000
        await redis.delete(key)
        await clock.advance(KEPT_ANEW_S)
        assert await catalog.choose("a", CALLER) == chosen
        assert await redis.exists(key)
