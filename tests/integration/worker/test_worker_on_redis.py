"""A worker on a real redis-server: the main path, and Redis in trouble."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from infra.wire.errors import StoreUnavailable
from infra.wire.ids import TurnId
from infra.wire.states import TurnState
from tests.fakes.redis_server import RealRedis
from tests.fakes.scripted_agent import Deltas, Tool
from tests.fakes.worker_stage import Stage, conversation, eventually

pytestmark = [pytest.mark.redis, pytest.mark.timeout(120)]

C = conversation("one")


async def ask_until_accepted(stage: Stage, prompt: str) -> TurnId:
    async with asyncio.timeout(30):
        while True:
            try:
                return await stage.ask(C, prompt)
            except StoreUnavailable:
                await asyncio.sleep(0.1)


async def numbers(stage: Stage, turn: TurnId) -> list[int]:
    return [int(word.split("@")[0]) for word in (await stage.log_text(turn)).split()]


async def test_twenty_conversations_of_three_turns_each_stay_apart_and_in_order(
    redis: Redis,
) -> None:
    async with Stage(redis) as stage:
        await stage.worker()
        await stage.worker()
        keys = [conversation(f"c{i}") for i in range(20)]
        turns = {c: [await stage.ask(c, f"echo {c} turn {i}") for i in range(3)] for c in keys}
        for c, asked in turns.items():
            for i, turn in enumerate(asked):
                assert (await stage.ended(turn, timeout_s=60)).state is TurnState.DONE
                assert await stage.log_text(turn) == f"{c} turn {i}"
                assert stage.live_text(turn) == f"{c} turn {i}"
        for c, asked in turns.items():
            [agent] = stage.agents[c]
            assert [start.turn for start in agent.session.started] == asked


async def test_a_worker_that_dies_between_take_and_acquire_loses_nothing(redis: Redis) -> None:
    async with Stage(redis) as stage:
        turn = await stage.killed_after_take(await stage.worker(), C)
        await stage.worker()

        assert (await stage.ended(turn)).state is TurnState.DONE
        assert await stage.log_text(turn) == "found again"


async def test_a_stream_survives_a_restart_of_redis(redis: Redis, server: RealRedis) -> None:
    async with Stage(redis, script=[Tool("Bash", "ls"), Deltas(300, every_s=0.01)]) as stage:
        await stage.worker()
        turn = await stage.ask(C, "go")
        await stage.until_said(turn, 20)

        await server.restart()

        assert (await stage.ended_when_redis_is_back(turn)).state is TurnState.DONE
        assert await numbers(stage, turn) == list(range(300))
        after = await ask_until_accepted(stage, "go")
        assert (await stage.ended_when_redis_is_back(after)).state is TurnState.DONE


async def test_a_stream_survives_a_frozen_redis(redis: Redis, server: RealRedis) -> None:
    async with Stage(redis, script=[Deltas(200, every_s=0.01)]) as stage:
        await stage.worker()
        turn = await stage.ask(C, "go")
        await stage.until_said(turn, 20)
        server.freeze()
        await asyncio.sleep(3)
        server.thaw()
        assert (await stage.ended_when_redis_is_back(turn)).state is TurnState.DONE
        assert await numbers(stage, turn) == list(range(200))


async def test_a_killed_workers_turn_is_adopted_once_its_lease_has_lapsed(redis: Redis) -> None:
    """With the real lease time: nothing is helped along."""
    async with Stage(redis, script=[Deltas(400, every_s=0.01)]) as stage:
        first = await stage.worker()
        second = await stage.worker()
        turn = await stage.ask(C, "go")
        await stage.until_said(turn, 20)
        owner = first if C in first.process.placement.conversations else second
        began = asyncio.get_running_loop().time()
        await owner.kill()

        assert (await stage.ended(turn, timeout_s=40)).state is TurnState.DONE

        assert asyncio.get_running_loop().time() - began < 20
        assert await numbers(stage, turn) == list(range(400))
        assert len(stage.agents[C]) == 1


async def test_workers_that_come_and_go_lose_and_double_nothing(redis: Redis) -> None:
    async with Stage(redis, script=[Deltas(250, every_s=0.01)]) as stage:
        keys = [conversation(f"c{i}") for i in range(6)]
        worker = await stage.worker()
        turns = [await stage.ask(c, "go") for c in keys]
        for turn in turns:
            await stage.until_said(turn, 5)
        for _ in range(3):
            following = await stage.worker()
            await worker.stop()
            worker = following
        for turn in turns:
            assert (await stage.ended(turn)).state is TurnState.DONE
            assert await numbers(stage, turn) == list(range(250))
        assert all(len(stage.agents[c]) == 1 for c in keys)


async def test_ten_silent_turns_cost_redis_no_more_than_an_idle_worker(redis: Redis) -> None:
    async with Stage(redis) as stage:
        turns = [await stage.ask(conversation(f"c{i}"), "hang") for i in range(10)]
        await stage.worker_with_real_rhythm()
        for turn in turns:
            await stage.until_said(turn, 1)

        asked = await commands_within(redis, seconds=10)

        assert len(asked) / 10 <= 4, asked
        for turn in turns:
            await stage.cancel(turn)
        for turn in turns:
            await stage.ended(turn)


async def commands_within(redis: Redis, *, seconds: float) -> list[str]:
    """What clients ask of Redis; what scripts do inside is not counted."""
    asked: list[str] = []
    async with redis.monitor() as monitor:
        # Nothing asked for a while is what we hope for, not a server that hangs.
        monitor.connection.socket_timeout = None
        try:
            async with asyncio.timeout(seconds):
                async for command in monitor.listen():
                    if command["client_type"] != "lua":
                        asked.append(command["command"][:60])
        except TimeoutError:
            return asked
    raise AssertionError("the monitor ended")


async def test_a_turn_that_ends_while_redis_is_away_is_finished_when_it_is_back(
    redis: Redis, server: RealRedis
) -> None:
    async with Stage(redis, script=[Deltas(30, every_s=0.01)]) as stage:
        worker = await stage.worker()
        turn = await stage.ask(C, "go")
        await stage.until_said(turn, 3)
        await server.stop()
        await asyncio.sleep(1)
        await server.start()
        assert (await stage.ended_when_redis_is_back(turn)).state is TurnState.DONE
        assert await numbers(stage, turn) == list(range(30))
        actors = worker.process.placement.conversations
        await eventually(lambda: C in actors and actors[C].is_resting)
