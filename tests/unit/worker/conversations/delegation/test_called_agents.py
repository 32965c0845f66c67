"""Agents that call agents, on workers in this process: limits, ends, and what outlives a worker."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from redis.asyncio import Redis

from agent.turn import RunningTurn
from infra.files.open import open_file_store
from infra.runtime.identity import called_conversation, called_turn
from infra.runtime.settings import FileStoreSettings
from infra.store.files.files import FileFacts, FileQuota
from infra.store.turns.turns import TurnRecord
from infra.wire.agents.delegation import Delegate, Delegation
from infra.wire.agents.profile import AgentProfile
from infra.wire.agents.ref import AgentRef
from infra.wire.events import Artifact, ToolCall, TurnEnded, TurnFiles, Usage
from infra.wire.gateway import ModelUsage, TurnMeter
from infra.wire.ids import ConversationKey, FileId, HostId, TenantId, TurnId
from infra.wire.options import NO_OPTIONS, ConversationOptions
from infra.wire.states import ConversationState, TurnState
from tests.fakes.scripted_agent import AGENT_SCRIPTS, Say, ScriptedSession, Tool
from tests.fakes.worker_stage import TENANT, Stage, eventually
from worker.conversations.delegation.called_agents import options_of_called
from worker.conversations.delegation.handed_over import HandedOver

C = ConversationKey("c" * 24)
OTHER = ConversationKey("d" * 24)
CALL = "toolu_1"
PROFILES = {
    "lead": AgentProfile(delegates=("helper", "hidden")),
    "helper": AgentProfile(delegates=("helper",), idle_timeout_s=5.0, description="Helps."),
}


@pytest.fixture
async def stage(redis: Redis) -> AsyncIterator[Stage]:
    async with Stage(redis) as stage:
        yield stage


async def refs(stage: Stage) -> dict[str, AgentRef]:
    keep = stage.store.profiles.keep
    return {
        name: AgentRef(name=name, digest=await keep(profile, ttl_s=600))
        for name, profile in PROFILES.items()
    }


async def ask(stage: Stage, prompt: str, c: ConversationKey = C, **more: Any) -> TurnId:
    """A turn of the agent `lead`, which may call `helper`; `hidden` is not for this tenant."""
    known = await refs(stage)
    helper = Delegate(agent=known["helper"], model="claude-test", description="Helps.")
    given = Delegation(reached={"helper": helper})
    return await stage.ask(c, prompt, agent=known["lead"], delegation=given, **more)


async def said(stage: Stage, turn: TurnId) -> str:
    assert (await stage.ended(turn)).state is TurnState.DONE
    return await stage.log_text(turn)


async def called(stage: Stage, caller: TurnId, call: str = CALL) -> TurnRecord:
    """The record of a called turn, as soon as there is one."""
    turn, found = called_turn(caller, call), list[TurnRecord]()

    async def look() -> None:
        while (record := await stage.store.turns.get(turn)) is None:
            await stage.clock.sleep(0.01)
        found.append(record)

    await look()
    return found[0]


async def under_way(stage: Stage, caller: TurnId) -> TurnId:
    turn = (await called(stage, caller)).turn
    await stage.until_logged(turn, 1)
    return turn


async def test_a_called_agent_answers_its_caller(stage: Stage) -> None:
    await stage.worker()
    turn = await ask(stage, "delegate helper tool make")
    text = await said(stage, turn)
    child = called_conversation(turn, CALL)
    assert text == f"done\n\n[Conversation {child} of helper]"
    shown = [event for _, event in await stage.logged(turn) if isinstance(event, ToolCall)]
    assert [(one.name, one.parent) for one in shown] == [("delegate", None), ("Bash", CALL)]
    record = await stage.store.conversations.get(child)
    assert record is not None
    assert (record.caller, record.tenant, record.label) == (C, TENANT, "helper")
    page = await stage.store.conversations.list(TENANT)
    assert [one.conversation for one in page.conversations] == [C], "only its user's own is listed"


async def test_a_called_agent_has_its_own_profile_and_no_more_than_its_caller(
    stage: Stage,
) -> None:
    await stage.worker()
    turn = await ask(stage, "delegate helper echo hi", deadline_s=20)
    await said(stage, turn)
    [start] = stage.agents[called_conversation(turn, CALL)][0].session.started
    assert start.settings.delegates == {"helper": "Helps."}
    opened = [one for one in stage.gateway.opened if one.turn == start.turn]
    assert {one.sealed_key for one in opened} == {"v1.sealed.again"}, "sealed for this turn"
    assert {one.tenant for one in opened} == {TENANT}


async def test_it_goes_on_where_it_stopped(stage: Stage) -> None:
    await stage.worker()
    turn = await ask(stage, "delegate helper echo one")
    [child] = re.findall(r"\[Conversation (\w+)", await said(stage, turn))
    known = await refs(stage)
    helper = Delegate(agent=known["helper"], model="claude-test")
    again = await stage.ask(
        C,
        f"delegate-in {child} helper history",
        agent=known["lead"],
        delegation=Delegation(reached={"helper": helper}),
    )
    assert "echo one | history" in await said(stage, again)


async def test_nobody_goes_on_in_a_conversation_that_it_did_not_call(stage: Stage) -> None:
    await stage.worker()
    await said(stage, await ask(stage, "echo mine", OTHER))
    turn = await ask(stage, f"delegate-in {OTHER} helper history")
    assert await said(stage, turn) == "No agent was called there. Leave `conversation` away."


async def test_only_listed_agents_that_the_key_may_use_are_called(stage: Stage) -> None:
    await stage.worker()
    for name in ("hidden", "lead", "nobody"):
        assert f"There is no agent '{name}'" in await said(
            stage, await ask(stage, f"delegate {name} echo hi")
        )


@pytest.mark.parametrize("name", ["hidden", "lead", "nobody"])
async def test_a_worker_calls_only_what_its_turn_may_call(stage: Stage, name: str) -> None:
    await stage.worker()
    turn = await ask(stage, f"forge-call {name} echo hi")
    assert await said(stage, turn) == f"There is no agent {name} that this turn may call."
    assert await stage.store.turns.get(called_turn(turn, CALL)) is None


def test_a_called_agent_goes_out_as_its_profile_or_its_caller() -> None:
    own = {name: ConversationOptions(egress_profile=name) for name in ("callers", "its-own")}
    for profile, callers, told in (
        (AgentProfile(), own["callers"], "callers"),
        (AgentProfile(egress_profile="its-own"), own["callers"], "its-own"),
        (AgentProfile(), NO_OPTIONS, None),
    ):
        assert options_of_called(profile, callers).egress_profile == told


async def test_depth_is_bounded(redis: Redis) -> None:
    async with Stage(redis, delegation_depth=2) as stage:
        await stage.worker()
        turn = await ask(stage, "delegate helper delegate helper delegate helper echo deep")
        assert (await said(stage, turn)).startswith("There is nobody to call.")


async def test_calls_of_a_turn_are_bounded(redis: Redis) -> None:
    async with Stage(redis, delegations_max=2) as stage:
        await stage.worker()
        turn = await ask(stage, "delegate-each call-0 call-1 call-2")
        text = await said(stage, turn)
    assert text.count("[Conversation") == 2
    assert text.endswith("Wait for an answer, or go on without.")


async def test_no_room_is_told_and_nobody_waits_for_ever(redis: Redis) -> None:
    async with Stage(redis, slots=1, delegation_wait_s=0.3) as stage:
        await stage.worker()
        turn = await ask(stage, "delegate helper echo hi")
        assert "No worker has room" in await said(stage, turn)
        record = await stage.store.turns.get(called_turn(turn, CALL))
        assert record is not None
        assert record.state is TurnState.EXPIRED


async def test_a_called_agent_runs_on_another_worker(redis: Redis) -> None:
    async with Stage(redis, slots=1) as stage:
        await stage.worker()
        await stage.worker(host_id=HostId("host-2"))
        turn = await ask(stage, "delegate helper echo elsewhere")
        assert "elsewhere" in await said(stage, turn)


async def test_a_cancelled_caller_cancels_those_it_called(stage: Stage) -> None:
    await stage.worker()
    turn = await ask(stage, "delegate helper delegate helper hang")
    child = await under_way(stage, turn)
    grandchild = await under_way(stage, child)
    await stage.cancel(turn)
    for one in (turn, child, grandchild):
        assert (await stage.ended(one)).state is TurnState.CANCELLED


async def test_a_waiting_call_ends_with_its_caller(redis: Redis) -> None:
    async with Stage(redis, slots=1, delegation_wait_s=30.0) as stage:
        await stage.worker()
        turn = await ask(stage, "delegate helper echo never")
        child = (await called(stage, turn)).turn
        await stage.cancel(turn)
        assert (await stage.ended(child)).state is TurnState.CANCELLED
        assert await stage.log_text(child) == ""


async def test_a_deleted_conversation_takes_those_that_it_called_along(stage: Stage) -> None:
    await stage.worker()
    turn = await ask(stage, "delegate helper echo hi")
    await said(stage, turn)
    child = called_conversation(turn, CALL)
    await stage.store.conversations.delete(C, tenant=TENANT, reason="x", is_forced=True)
    assert await stage.store.conversations.get(child) is None
    assert await stage.store.turns.get(called_turn(turn, CALL)) is None


async def test_a_call_outlives_its_callers_worker_and_is_made_once(stage: Stage) -> None:
    worker = await stage.worker()
    turn = await ask(stage, "delegate helper wait 700")
    child = await under_way(stage, turn)
    await worker.kill()
    await stage.lapse_lease(C)
    await stage.lapse_lease(called_conversation(turn, CALL))
    await stage.worker()
    assert (await said(stage, turn)).startswith("waited")
    agents = stage.agents[called_conversation(turn, CALL)]
    assert [start.turn for one in agents for start in one.session.started] == [child]


async def test_a_call_whose_container_dies_is_an_error_of_the_call(stage: Stage) -> None:
    await stage.worker()
    turn = await ask(stage, "delegate helper die")
    text = await said(stage, turn)
    assert text.startswith("The agent did not finish: ")
    assert "about to die" in text


async def test_a_call_gets_half_of_what_is_left_and_its_use_counts(redis: Redis) -> None:
    async with Stage(redis, turn_budget_tokens=1000) as stage:
        await stage.worker()
        turn = await ask(stage, "delegate helper wait 300")
        child = await under_way(stage, turn)
        budgets = {one.turn: one.budget_tokens for one in stage.gateway.opened}
        assert budgets[child] == 500
        assert await stage.store.turns.lent_tokens(turn) == 500, "all that it may use"
        used = Usage(input_tokens=120)
        stage.gateway.meters_of[child] = TurnMeter(
            instance=stage.gateway.instance,
            calls=1,
            usage=used,
            models={"claude-test": ModelUsage(calls=1, usage=used)},
        )
        await said(stage, turn)
        assert await stage.store.turns.lent_tokens(turn) == 120


async def test_without_budget_nobody_is_called(redis: Redis) -> None:
    async with Stage(redis, turn_budget_tokens=1) as stage:
        await stage.worker()
        turn = await ask(stage, "delegate helper echo hi")
        assert await said(stage, turn) == "No budget is left for another agent."


async def test_a_called_agents_container_does_not_wait_for_long(stage: Stage) -> None:
    await stage.worker()
    turn = await ask(stage, "delegate helper echo hi", idle_timeout_s=3600)
    await said(stage, turn)
    child = called_conversation(turn, CALL)
    await eventually(lambda: child in stage.containers())
    record = await stage.store.conversations.get(child)
    assert record is not None
    assert record.state is not ConversationState.LOST
    assert record.idle_at_ms is not None
    assert record.idle_at_ms - record.last_active_ms <= 5_100


@dataclass(frozen=True)
class Write:
    """Make a file in the called agent's workspace, as a tool would."""

    stage: Stage

    async def play(self, turn: RunningTurn, session: ScriptedSession) -> TurnEnded | None:
        record = await self.stage.store.turns.get(turn.start.turn)
        assert record is not None
        await Tool("Bash", "make").play(turn, session)
        folder = self.stage.folder / "w" / record.conversation / "outputs"
        folder.mkdir(exist_ok=True)
        (folder / "table.csv").write_bytes(b"a,b\n")
        return None


async def test_files_are_handed_over_once(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.files = open_file_store(FileStoreSettings.model_validate({}), data_dir=stage.folder)
    monkeypatch.setitem(AGENT_SCRIPTS, "make", lambda words: [Write(stage), Say("made")])
    await stage.worker()
    turn = await ask(stage, "delegate helper make")
    assert "- /workspace/from-helper/table.csv, 4 bytes" in await said(stage, turn)
    there = stage.folder / "w" / C / "from-helper"
    assert [one.name for one in there.iterdir()] == ["table.csv"]
    ended = await stage.ended(turn)
    assert ended.made is not None
    assert [one.path for one in ended.made.files] == ["from-helper/table.csv"]


async def test_files_of_another_tenant_are_not_handed_over(stage: Stage) -> None:
    stage.files = open_file_store(FileStoreSettings.model_validate({}), data_dir=stage.folder)
    worker = await stage.worker()
    parts = worker.process.parts
    kept = parts.kept_files
    assert kept is not None
    file, other = FileId("file-" + "0" * 32), TenantId("u" * 20)
    quota = FileQuota(files_max=1, bytes_max=100)
    await kept.records.begin(file, other, store="s", announced=1, quota=quota)
    facts = FileFacts(name="x", type="", purpose="", digest="0" * 64, bytes=1, life_s=None)
    assert await kept.records.keep(file, other, facts, store="s") is not None
    theirs = Artifact(file=file, path="x", bytes=1, media_type="text/plain", expires_ms=1)
    held = await parts.ownership.acquire(C)
    handed = HandedOver(parts, held)
    made = TurnFiles(files=(theirs,))
    assert await handed.bring(made, agent="helper", tenant=TENANT) == {}
    assert await handed._known(kept.records, theirs, other) is not None
    assert await handed._known(kept.records, theirs, TENANT) is None
