"""Conversations remember what the client sees: over turns, idle times, containers and workers."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from redis.asyncio import Redis

from infra.store.conversations.leases import Lease
from infra.store.conversations.transcripts import RawPart, TranscriptStore
from infra.wire.errors import StoreUnavailable
from infra.wire.history.decision import Accepted
from infra.wire.ids import TurnId
from infra.wire.link import BaseKind, decode_launch
from infra.wire.socket_folder import LAUNCH_FILE
from infra.wire.states import TurnState
from tests.fakes.scripted_agent import Say, Script, WaitFor, message_text
from tests.fakes.worker_stage import Stage, conversation, eventually

pytestmark = pytest.mark.slow

C = conversation("one")


class FlakyTranscripts(TranscriptStore):
    """Redis does not take the first few entries."""

    failures = 3

    async def append(self, lease: Lease, sdk_session: str, part: RawPart) -> bool:
        if self.failures:
            self.failures -= 1
            raise StoreUnavailable("the store is told to fail")
        return await super().append(lease, sdk_session, part)


async def said(
    stage: Stage, *messages: str, is_thin: bool = False, answers: tuple[str, ...] = ()
) -> str:
    """The answer to a turn whose client sent these user messages, and shows these answers."""
    *history, prompt = messages
    turn = await stage.ask(C, prompt, history=tuple(history), answers=answers, is_thin=is_thin)
    assert (await stage.ended(turn)).state is TurnState.DONE
    return await stage.log_text(turn)


async def until_cold(stage: Stage) -> None:
    """Idle for long enough: its container is gone."""
    await stage.store.conversations.stop(C, tenant=None, reason="test")
    await eventually(lambda: C not in stage.containers())


def bases(stage: Stage) -> list[BaseKind]:
    return [start.base for agent in stage.agents[C] for start in agent.session.started]


async def accepted(stage: Stage) -> list[Accepted]:
    raw = await stage.redis.lrange(stage.keys.accepted(C), 0, -1)  # type: ignore[misc]
    return [Accepted.model_validate_json(entry) for entry in raw]


async def test_a_redone_turn_does_not_know_the_old_one(stage: Stage) -> None:
    await stage.worker()
    await said(stage, "echo one")
    await said(stage, "echo one", "echo wrong")

    assert await said(stage, "echo one", "history") == "echo one | history"

    assert bases(stage) == [BaseKind.CONTINUE, BaseKind.CONTINUE, BaseKind.REWIND]
    assert len(stage.agents[C]) == 1


async def test_an_edited_message_makes_the_agent_forget_what_came_after(stage: Stage) -> None:
    await stage.worker()
    await said(stage, "echo one")
    await said(stage, "echo one", "echo two")
    await said(stage, "echo one", "echo two", "echo three")

    assert await said(stage, "echo one", "history") == "echo one | history"
    assert await said(stage, "history") == "history"


async def test_a_branch_can_be_gone_on_with(stage: Stage) -> None:
    await stage.worker()
    await said(stage, "echo one")
    await said(stage, "echo one", "echo two")
    await said(stage, "echo one", "echo other")

    assert (
        await said(stage, "echo one", "echo other", "history") == "echo one | echo other | history"
    )
    assert bases(stage)[-2:] == [BaseKind.REWIND, BaseKind.CONTINUE]


async def test_an_answer_that_another_took_the_place_of_is_not_gone_on_from(stage: Stage) -> None:
    """Two models side by side, an older version picked again, an answer edited: with the user's
    messages all the same, the agent went on from the answer that was on no page."""
    await stage.worker()
    await said(stage, "echo one")
    await said(stage, "echo one", "echo two", answers=("one",))
    await said(stage, "echo one", "echo two", "echo three", answers=("one", "two"))
    assert bases(stage) == [BaseKind.CONTINUE] * 3

    edited = await said(stage, "echo one", "echo two", "history", answers=("one", "not two"))

    assert edited == "echo one | echo two | history"
    assert bases(stage)[-1] is BaseKind.REWIND
    start = stage.agents[C][0].session.started[-1]
    assert start.restore_from == 2
    assert [message_text(m) for m in start.history[2:]] == ["echo two", "not two"]
    cut = ("one", "not t")
    await said(stage, "echo one", "echo two", "history", "echo", answers=(*cut, edited))
    assert bases(stage)[-1] is BaseKind.CONTINUE
    assert len(stage.agents[C]) == 1


async def test_a_past_the_agent_never_had_comes_from_the_client(stage: Stage) -> None:
    await stage.worker()
    assert await said(stage, "a", "b", "history") == "a | b | history"
    assert await said(stage, "x", "y", "history") == "x | y | history"


async def test_a_thin_client_goes_on(stage: Stage) -> None:
    await stage.worker()
    await said(stage, "echo one", is_thin=True)
    assert await said(stage, "history", is_thin=True) == "echo one | history"


async def test_what_was_stopped_before_the_agent_had_it_is_remembered(stage: Stage) -> None:
    """Of a client that sends only what is new it was lost: seven first turns of seven."""
    await stage.worker()
    stage.gateway.is_answering_turns.clear()
    turn = await stage.ask(C, "echo one", is_thin=True)
    await stage.until_state(turn, TurnState.RUNNING)
    await stage.cancel(turn)
    assert (await stage.ended(turn)).state is TurnState.CANCELLED
    stage.gateway.is_answering_turns.set()

    assert await said(stage, "two", is_thin=True) == "one two"
    assert await said(stage, "history", is_thin=True) == "echo one two | history"


async def test_the_cut_turn_stays_in_the_memory(stage: Stage) -> None:
    await stage.worker()
    turn = await stage.ask(C, "hang")
    await stage.until_said(turn, 1)
    await stage.cancel(turn)
    await stage.ended(turn)

    assert await said(stage, "hang", "history") == "hang | history"
    assert bases(stage) == [BaseKind.CONTINUE, BaseKind.CONTINUE]


async def test_a_conversation_goes_on_from_its_transcript_on_a_fresh_container(
    stage: Stage,
) -> None:
    await stage.worker()
    await said(stage, "echo one")
    await said(stage, "echo one", "echo two")
    session = stage.agents[C][0].session.sdk_session
    await until_cold(stage)

    text = await said(stage, "echo one", "echo two", "history")

    assert text == "echo one | echo two | history"
    assert len(stage.agents[C]) == 2
    fresh = stage.agents[C][1].session
    assert fresh.sdk_session == session
    assert fresh.started[0].base is BaseKind.CONTINUE
    assert fresh.started[0].transcript is not None


async def test_a_new_agent_is_left_the_settings_of_its_first_turn_and_a_resumed_one_none(
    stage: Stage,
) -> None:
    """A CLI with a past cannot be started before its transcript is there."""
    await stage.worker()
    [launch_file] = [*(await said_and_found(stage, "echo one"))]
    launch = decode_launch(launch_file.read_bytes())
    assert launch.settings == stage.agents[C][0].session.started[0].settings
    assert stat.S_IMODE(launch_file.stat().st_mode) == 0o600
    await until_cold(stage)

    assert not [*(await said_and_found(stage, "echo one", "echo two"))]


async def said_and_found(stage: Stage, *prompts: str) -> Iterable[Path]:
    """The launch files after a turn: a scripted agent leaves them."""
    await said(stage, *prompts)
    return stage.folder.rglob(LAUNCH_FILE)


async def test_also_of_a_thin_client_and_by_another_worker_of_the_host(stage: Stage) -> None:
    first = await stage.worker()
    await said(stage, "echo one", is_thin=True)
    await until_cold(stage)
    await eventually(lambda: not first.process.placement.used)
    await first.stop()

    await stage.worker()

    assert await said(stage, "history", is_thin=True) == "echo one | history"


async def test_a_branch_after_the_idle_time_forks_the_stored_transcript(stage: Stage) -> None:
    await stage.worker()
    await said(stage, "echo one")
    await said(stage, "echo one", "echo two")
    await until_cold(stage)

    assert await said(stage, "echo one", "history") == "echo one | history"

    start = stage.agents[C][1].session.started[0]
    assert (start.base, start.transcript is not None) == (BaseKind.REWIND, True)
    record = await stage.store.conversations.get(C)
    assert record is not None
    assert record.sdk_session == stage.agents[C][1].session.sdk_session
    held = await stage.redis.hkeys(stage.keys.transcripts(C))  # type: ignore[misc]
    assert [key.decode() for key in held] == [record.sdk_session]


async def test_a_transcript_too_large_to_keep_gives_way_to_the_sent_history(redis: Redis) -> None:
    async with Stage(redis, transcript_max_bytes=10) as stage:
        await stage.worker()
        await said(stage, "echo one")
        await until_cold(stage)

        assert await said(stage, "echo one", "history") == "echo one | history"

        start = stage.agents[C][1].session.started[0]
        assert (start.base, start.transcript) == (BaseKind.FRESH, None)


async def test_the_accepted_prompts_follow_the_memory(stage: Stage) -> None:
    await stage.worker()
    await said(stage, "echo one")
    await said(stage, "echo one", "echo wrong")
    await said(stage, "echo one", "echo two")

    known = await accepted(stage)
    memory = stage.agents[C][0].session
    assert len(known) == len(memory.prompts) == 2
    assert all(entry.checkpoint for entry in known)


async def test_a_turn_no_agent_ever_got_changes_no_memory(stage: Stage) -> None:
    await stage.worker()
    await said(stage, "echo one")
    before = await accepted(stage)
    stage.gateway.failures = -1
    failed = await stage.ask(C, "echo lost", history=("echo one",))
    assert (await stage.ended(failed)).state is TurnState.FAILED
    stage.gateway.failures = 0

    assert await accepted(stage) == before
    assert await said(stage, "echo one", "history") == "echo one | history"


async def test_a_container_that_dies_leaves_the_memory_it_had_stored(stage: Stage) -> None:
    await stage.worker()
    await said(stage, "echo one")
    assert (await stage.ended(await stage.ask(C, "die", history=("echo one",)))).error

    text = await said(stage, "echo one", "die", "history")

    assert text == "echo one | die | history"


async def test_an_adopted_turn_is_not_decided_again(redis: Redis) -> None:
    go = asyncio.Event()
    script: Script = [Say("first "), WaitFor(go), Say("second")]
    async with Stage(redis, script=script) as stage:
        first = await stage.worker()
        turn = await stage.ask(C, "prompt", history=("a", "b"))
        await stage.until_said(turn, 2)
        await first.kill()
        await stage.store.workers.leave(first.id)
        await stage.lapse_lease(C)
        await stage.worker()
        go.set()
        assert (await stage.ended(turn)).state is TurnState.DONE

        assert len(bases(stage)) == 1
        assert [bool(entry.checkpoint) for entry in await accepted(stage)] == [False, False, True]


async def test_a_worker_killed_before_the_agent_heard_of_the_turn_leaves_the_same_base(
    stage: Stage,
) -> None:
    first = await stage.worker()
    await said(stage, "echo one")
    await said(stage, "echo one", "echo wrong")
    turn = await _stuck_between_start_and_agent(stage)
    await first.kill()
    await stage.store.workers.leave(first.id)
    await stage.lapse_lease(C)
    stage.gateway.is_answering_turns.set()
    await stage.worker()

    assert (await stage.ended(turn)).state is TurnState.DONE
    assert await stage.log_text(turn) == "echo one | history"


async def _stuck_between_start_and_agent(stage: Stage) -> TurnId:
    """A turn on record as running that its agent has not got: the gateway does not answer."""
    stage.gateway.is_answering_turns.clear()
    turn = await stage.ask(C, "history", history=("echo one",))
    await stage.until_state(turn, TurnState.RUNNING)
    return turn


async def test_the_answer_waits_for_no_transcript_while_redis_is_away(stage: Stage) -> None:
    flaky = FlakyTranscripts(stage.redis, stage.keys)
    stage.store = replace(stage.store, transcripts=flaky)
    await stage.worker()

    assert await said(stage, "echo one") == "one"

    await until_cold(stage)
    assert await said(stage, "echo one", "history") == "echo one | history"
    assert stage.agents[C][1].session.started[0].base is BaseKind.CONTINUE


@pytest.mark.parametrize("turns", [20])
async def test_many_turns_at_once_come_out_in_order_and_in_one_memory(
    stage: Stage, turns: int
) -> None:
    await stage.worker()
    asked = [await stage.ask(C, f"echo {i}", is_thin=True) for i in range(turns)]
    for turn in asked:
        assert (await stage.ended(turn)).state is TurnState.DONE

    assert len(stage.agents[C]) == 1
    assert stage.agents[C][0].session.prompts == [f"echo {i}" for i in range(turns)]
