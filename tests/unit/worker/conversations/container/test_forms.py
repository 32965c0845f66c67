"""A conversation's container has the form that the agent of its turn wants."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from infra.wire.agents.bundle import BundleFile, bundle_digest, pack
from infra.wire.agents.profile import AgentProfile
from infra.wire.agents.ref import AgentRef
from infra.wire.errors import ErrorCode
from infra.wire.ids import ConversationKey
from infra.wire.states import TurnState
from tests.fakes.worker_stage import Stage
from worker.hosts.folders.folders import Folders
from worker.hosts.form import USUAL_FORM, ContainerForm

C = ConversationKey("c" * 24)
RAW = pack({"skills/pdf/SKILL.md": BundleFile(b"How."), "workspace/README": BundleFile(b"read")})
DIGEST = bundle_digest(RAW)
SKILLED = AgentProfile(skills=("own/pdf",), workspace="start", bundle=DIGEST)


@pytest.fixture
async def stage(redis: Redis) -> AsyncIterator[Stage]:
    async with Stage(redis) as stage:
        await stage.worker()
        yield stage


async def asked(
    stage: Stage, profile: AgentProfile | None, *, bundle: bytes | None = None
) -> ErrorCode | None:
    """A whole turn under that profile; returns what went wrong."""
    agent = None
    if profile is not None:
        digest = await stage.store.profiles.keep(profile, ttl_s=60, bundle=bundle)
        agent = AgentRef(name=f"a{digest[:8]}", digest=digest)
    end = await stage.ended(await stage.ask(C, "echo hi", agent=agent))
    assert (end.error is None) is (end.state is TurnState.DONE)
    return end.error.code if end.error else None


def forms(stage: Stage) -> list[ContainerForm]:
    """Those of the containers that run."""
    return [kept.container.form for kept in stage.machine.kept.values()]


async def test_another_form_is_another_container_and_the_same_one_is_not(stage: Stage) -> None:
    assert await asked(stage, SKILLED, bundle=RAW) is None
    [first] = stage.machine.kept
    assert forms(stage) == [ContainerForm(bundle=DIGEST)]
    assert await asked(stage, SKILLED.model_copy(update={"description": "Else."})) is None
    assert [*stage.machine.kept] == [first], "nothing of its container is another"
    assert await asked(stage, None) is None
    assert forms(stage) == [USUAL_FORM]
    assert first not in stage.machine.kept
    files = Folders(stage.folder).of(C).workspace
    assert (files / "README").read_text() == "read", "files stay"


async def test_a_bundle_that_is_not_kept_ends_the_turn(stage: Stage) -> None:
    assert await asked(stage, SKILLED) is ErrorCode.CONTAINER_FAILED
    assert await asked(stage, SKILLED, bundle=RAW) is None


async def test_a_damaged_bundle_ends_the_turn(stage: Stage) -> None:
    assert await asked(stage, SKILLED, bundle=RAW[:-1]) is ErrorCode.CONTAINER_FAILED
    assert forms(stage) == []
