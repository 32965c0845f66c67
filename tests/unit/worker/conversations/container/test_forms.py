"""A conversation's container has the form that the agent of its turn wants."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from agent import server
from infra.wire.agents.bundle import BundleFile, bundle_digest, pack
from infra.wire.agents.container import ContainerLimits
from infra.wire.agents.permissions import Permissions
from infra.wire.agents.profile import AgentProfile
from infra.wire.agents.ref import AgentRef
from infra.wire.errors import AgentImageRefused, ErrorCode
from infra.wire.ids import ConversationKey
from infra.wire.states import TurnState
from tests.fakes.memory_host import MemoryHost
from tests.fakes.worker_stage import Stage
from worker.hosts.breaker import FAILURES_MAX
from worker.hosts.folders.folders import Folders
from worker.hosts.form import USUAL_FORM, ContainerForm
from worker.hosts.host import Container, ContainerSpec

HOW_TO = "---\ndescription: D.\n---\nHow to."

C = ConversationKey("c" * 24)
RAW = pack(
    {
        "skills/pdf/SKILL.md": BundleFile(HOW_TO.encode()),
        "workspace/README": BundleFile(b"read"),
    }
)
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


async def test_another_limit_or_image_is_another_container_and_files_stay(stage: Stage) -> None:
    assert await asked(stage, None) is None
    (Folders(stage.folder).of(C).workspace / "kept").write_text("kept")
    small = AgentProfile(
        image="pandas:1",
        container=ContainerLimits(memory_mb=512, cpus=0.5, pids=64),
        workspace_max_mb=100,
    )
    assert await asked(stage, small) is None
    assert forms(stage) == [
        ContainerForm(image="pandas:1", memory_mb=512, cpus=0.5, pids=64, file_mb=100)
    ]
    assert stage.machine.cpus.keys().isdisjoint(stage.machine.kept), "its limit is its own"
    assert (Folders(stage.folder).of(C).workspace / "kept").read_text() == "kept"


class ImagelessHost(MemoryHost):
    """Has no image but its own."""

    async def start(self, spec: ContainerSpec) -> Container:
        if spec.form.image is not None:
            raise AgentImageRefused("no such image")
        return await super().start(spec)


async def test_an_image_that_is_refused_is_told_at_once_and_harms_nobody(redis: Redis) -> None:
    async with Stage(redis) as stage:
        worker = await stage.worker(host=ImagelessHost(stage.machine))
        for _ in range(FAILURES_MAX + 1):
            assert await asked(stage, AgentProfile(image="pandas:1")) is ErrorCode.CONTAINER_FAILED
        assert await asked(stage, None) is None
        assert worker.process.parts.engine.is_trusted


CAREFUL = AgentProfile(permissions=Permissions(ask=("Bash",)))


async def test_a_container_of_an_earlier_version_makes_way_for_one_that_knows_what_restricts_it(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "RESTRICTIONS", ("permissions.deny",))
    assert await asked(stage, None) is None
    [first] = stage.machine.kept
    assert await asked(stage, AgentProfile(permissions=Permissions(deny=("Bash",)))) is None
    assert [*stage.machine.kept] == [first], "it knows that"
    monkeypatch.undo()
    assert await asked(stage, CAREFUL) is None
    assert first not in stage.machine.kept


async def test_an_image_that_does_not_know_what_restricts_a_turn_never_gets_it(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "RESTRICTIONS", ())
    assert await asked(stage, CAREFUL) is ErrorCode.CONTAINER_FAILED
    assert await asked(stage, None) is None
