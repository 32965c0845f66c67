"""Turns that take long: nothing but their deadline ends them."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from infra.wire.events import ToolCall
from infra.wire.states import ConversationState, TurnState
from tests.fakes.manual_clock import ManualClock
from tests.fakes.scripted_agent import Say, Script, Tool, WaitFor
from tests.fakes.worker_stage import Stage, conversation, eventually
from worker.parts import Timings

pytestmark = pytest.mark.slow

C = conversation("one")


async def pass_time(clock: ManualClock, seconds: int) -> None:
    """Second by second, with what comes over sockets in between."""
    for _ in range(seconds):
        await clock.advance(1.0)
        await asyncio.sleep(0.002)


async def test_ten_minutes_in_a_silent_tool_end_nothing(redis: Redis) -> None:
    clock, is_over = ManualClock(), asyncio.Event()
    script: Script = [Tool("Bash", "make", "built"), WaitFor(is_over), Say("done")]
    async with Stage(redis, script=script, clock=clock) as stage:
        ready = asyncio.Event()
        ticking = stage.background(_tick(clock, ready))
        await stage.worker(timings=Timings(), renew_every_s=5.0, beat_every_s=5.0)
        turn = await stage.ask(C, "build it", deadline_s=3600, idle_timeout_s=60)
        await stage.until_said(turn, 2)
        ready.set()
        await ticking

        await pass_time(clock, 600)

        record = await stage.store.turns.get(turn)
        assert record is not None
        assert (record.state, record.attempt, record.cancel) == (TurnState.RUNNING, 1, None)
        assert len(stage.agents[C]) == 1
        is_over.set()
        ticking = stage.background(_tick(clock, ready := asyncio.Event()))
        assert (await stage.ended(turn)).state is TurnState.DONE
        ready.set()
        await ticking
        events = [event for _, event in await stage.logged(turn)]
        assert sum(isinstance(event, ToolCall) for event in events) == 1
        assert await stage.log_text(turn) == "done"


async def _tick(clock: ManualClock, is_over: asyncio.Event) -> None:
    """Time in small steps, for what waits before or after the long silence."""
    while not is_over.is_set():
        await clock.advance(0.05)
        await asyncio.sleep(0.005)


async def test_a_conversation_is_not_reaped_while_its_turn_runs(stage: Stage) -> None:
    worker = await stage.worker()
    turn = await stage.ask(C, "hang", idle_timeout_s=0.05)
    await stage.until_said(turn, 1)

    for _ in range(5):
        await stage.redis.zadd(stage.keys.idle(), {C: 1})
        await worker.process.reaper.sweep()
        assert stage.containers() == [C]

    assert await stage.state(turn) is TurnState.RUNNING
    record = await stage.store.conversations.get(C)
    assert record is not None
    assert record.state is ConversationState.BUSY
    await stage.cancel(turn)
    await stage.ended(turn)
    await eventually(lambda: not stage.containers())
