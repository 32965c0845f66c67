"""Redis is emptied: workers put on record what lives, and clients find it again."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from infra.wire.ids import ConversationKey, TurnId, WorkerId
from infra.wire.states import ConversationState, TurnState
from tests.fakes.scripted_agent import Say, WaitFor
from tests.fakes.worker_stage import Stage, conversation, eventually

pytestmark = pytest.mark.slow

C, D = conversation("one"), conversation("two")


async def until_warm(stage: Stage, *conversations: ConversationKey) -> None:
    """Until they are on record with an owner and an idle deadline."""
    async with asyncio.timeout(20):
        for c in conversations:
            while True:
                record = await stage.store.conversations.get(c)
                if record and record.owner and record.idle_at_ms:
                    assert record.state is ConversationState.WARM
                    break
                await asyncio.sleep(0.01)


async def alive(stage: Stage) -> set[WorkerId]:
    return {worker.worker for worker in await stage.store.workers.alive()}


async def ended(stage: Stage, turn: TurnId) -> TurnState:
    return (await stage.ended(turn)).state


async def test_warm_conversations_come_back_with_their_containers(stage: Stage) -> None:
    worker = await stage.worker()
    for c in (C, D):
        assert await ended(stage, await stage.ask(c, "echo before")) is TurnState.DONE
    containers = dict(stage.machine.kept)

    await stage.redis.flushall()
    await until_warm(stage, C, D)

    async with asyncio.timeout(20):
        while worker.id not in await alive(stage):  # noqa: ASYNC110 - Redis tells nobody
            await asyncio.sleep(0.01)
    turn = await stage.ask(C, "history", history=("echo before",))
    assert await ended(stage, turn) is TurnState.DONE
    assert "echo before" in await stage.log_text(turn)
    assert stage.machine.kept == containers, "nothing was stopped, nothing started"
    assert [len(stage.agents[c]) for c in (C, D)] == [1, 1]


async def test_they_come_back_too_when_no_worker_lived_to_know_them(stage: Stage) -> None:
    """By the labels of what runs there."""
    first = await stage.worker()
    await stage.ended(await stage.ask(C, "echo before"))
    await first.kill()
    await stage.redis.flushall()

    await stage.worker()
    await until_warm(stage, C)

    assert await ended(stage, await stage.ask(C, "echo after", history=("echo before",)))
    assert len(stage.agents[C]) == 1


async def test_a_turn_that_comes_before_its_worker_has_noticed_finds_its_container(
    stage: Stage,
) -> None:
    await stage.worker(renew_every_s=30)
    await stage.ended(await stage.ask(C, "echo before"))

    await stage.redis.flushall()
    turn = await stage.ask(C, "echo after", history=("echo before",))

    assert await ended(stage, turn) is TurnState.DONE
    assert await stage.log_text(turn) == "after"
    assert len(stage.agents[C]) == 1


async def test_a_turn_that_ran_is_stopped_and_its_agent_serves_the_next_one(stage: Stage) -> None:
    await stage.worker()
    lost = await stage.ask(C, "stream 2000 every 10 ms")
    await stage.until_said(lost, 20)

    await stage.redis.flushall()
    await until_warm(stage, C)

    after = await stage.ask(C, "echo and now", history=("stream",))
    assert await ended(stage, after) is TurnState.DONE
    assert await stage.log_text(after) == "and now"
    assert await stage.store.turns.get(lost) is None
    assert len(stage.agents[C]) == 1


async def test_a_turn_that_ended_unheard_is_not_waited_for(redis: Redis) -> None:
    """Its agent has nothing more to say, and is free."""
    go_on = asyncio.Event()
    async with Stage(redis, script=[Say("so far"), WaitFor(go_on)]) as stage:
        worker = await stage.worker()
        lost = await stage.ask(C, "something")
        await stage.until_said(lost, 2)
        await worker.kill()
        go_on.set()

        await stage.redis.flushall()
        await stage.worker()
        await until_warm(stage, C)

        after = await stage.ask(C, "more", history=("something",))
        assert await ended(stage, after) is TurnState.DONE
        assert await stage.log_text(after) == "so far"
        assert len(stage.agents[C]) == 1


async def test_a_restored_conversation_that_stays_idle_is_reaped(stage: Stage) -> None:
    await stage.worker(idle_timeout_s=0.5)
    await stage.ended(await stage.ask(C, "echo before"))
    await stage.redis.flushall()
    await eventually(lambda: not stage.machine.kept)
    async with asyncio.timeout(20):
        while await stage.store.conversations.get(C) is not None:  # noqa: ASYNC110 - Redis tells nobody
            await asyncio.sleep(0.01)
