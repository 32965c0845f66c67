"""Replicas keep what they offer where workers find it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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


@asynccontextmanager
async def catalog_of(tmp_path: Path, *, depth: int = 2) -> AsyncIterator[AgentCatalog]:
    folder, clock = ProfileFolder(tmp_path), ManualClock()
    folder.look()
    async with httpx.AsyncClient() as upstream:
        yield AgentCatalog(
            folder,
            models=ModelCatalog(SETTINGS, upstream, clock),
            profiles=ProfileStore(FakeAsyncRedis(), Keys("agc")),
            default_model=SETTINGS.models[0],
            keep_s=1000,
            delegation_depth=depth,
            clock=clock,
        )


async def reached(catalog: AgentCatalog, name: str = "a") -> dict[str, str]:
    """The agents that can be reached from one, with their models."""
    chosen = await catalog.choose(name, CALLER)
    assert chosen is not None
    given = chosen.delegation.reached if chosen.delegation else {}
    return {name: one.model for name, one in given.items()}


async def test_agents_are_reached_level_by_level(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("delegates: [b]\n")
    (tmp_path / "b.yaml").write_text(f"delegates: [c, a]\nmodels: [{SETTINGS.models[-1]}]\n")
    (tmp_path / "c.yaml").write_text("delegates: [d]\n")
    (tmp_path / "d.yaml").write_text("description: x\n")
    for depth, found in ((0, set()), (1, {"b"}), (2, {"b", "c", "a"}), (3, set("abcd"))):
        async with catalog_of(tmp_path, depth=depth) as catalog:
            assert set(await reached(catalog)) == found
    async with catalog_of(tmp_path) as catalog:
        assert (await reached(catalog))["b"] == SETTINGS.models[-1]
        assert await reached(catalog, "d") == {}


async def test_what_a_key_may_not_use_is_not_reached(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("delegates: [b, c]\n")
    (tmp_path / "b.yaml").write_text(
        f"tenants: ['{'u' * 20}'.]\n".replace("u" * 20, "0" * 20).replace(".]", "]")
    )
    (tmp_path / "c.yaml").write_text("models: [no-such-model]\n")
    async with catalog_of(tmp_path) as catalog:
        assert await reached(catalog) == {}


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
            delegation_depth=2,
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
