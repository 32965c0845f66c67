"""What turns use is booked while they run and once, and budgets end them with a clear word."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
from redis.asyncio import Redis

from infra.wire.errors import ErrorCode
from infra.wire.events import TurnEnded, Usage
from infra.wire.gateway import ModelUsage, TurnMeter
from infra.wire.ids import TurnId
from infra.wire.options import ConversationOptions
from infra.wire.states import TurnState
from tests.fakes.memory_gateway import SSE_START, stream_of
from tests.fakes.worker_stage import TENANT, Stage, conversation, eventually
from worker.gateway_client.client import UpstreamAnswer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

C = conversation("spender")
OTHER = conversation("other spender")
MODEL = "claude-test"


def meter_of(tokens: int, *, instance: str = "g", is_over_budget: bool = False) -> TurnMeter:
    usage = Usage(input_tokens=tokens, cache_read_input_tokens=1000)
    return TurnMeter(
        calls=1,
        usage=usage,
        instance=instance,
        models={MODEL: ModelUsage(calls=1, usage=usage)},
        is_over_budget=is_over_budget,
    )


def code_of(end: TurnEnded) -> ErrorCode | None:
    return end.error.code if end.error else None


async def booked(stage: Stage) -> int:
    return (await stage.store.usage.of_tenant(TENANT)).total.usage.spent_tokens


async def until_booked(stage: Stage, tokens: int) -> None:
    async with asyncio.timeout(30):
        while await booked(stage) != tokens:  # noqa: ASYNC110 - Redis has no event for it
            await asyncio.sleep(0.01)


async def spend_today(stage: Stage, tokens: int) -> None:
    day = datetime.now(UTC).strftime("%Y%m%d")
    key = stage.keys.tenant_usage_of(TENANT, day)
    await stage.redis.hset(key, "spent_tokens", str(tokens))  # type: ignore[misc]


async def hanging(stage: Stage, *, said: int = 1) -> TurnId:
    turn = await stage.ask(C, "hang")
    await stage.until_said(turn, said)
    return turn


async def test_a_running_turn_is_booked_as_it_goes_and_at_its_end_once(stage: Stage) -> None:
    await stage.worker()
    turn = await hanging(stage)
    for tokens in (10, 25):
        stage.gateway.meters_of[turn] = meter_of(tokens)
        await until_booked(stage, tokens)
    stage.gateway.meters_of[turn] = meter_of(30)
    await stage.cancel(turn)
    assert (await stage.ended(turn)).state is TurnState.CANCELLED
    assert await booked(stage) == 30
    found = await stage.store.usage.of_conversation(C)
    assert found.models == {MODEL: ModelUsage(calls=1, usage=meter_of(30).usage)}


async def test_a_turn_taken_over_is_not_booked_twice(stage: Stage) -> None:
    first = await stage.worker()
    turn = await hanging(stage)
    stage.gateway.meters_of[turn] = meter_of(40)
    await until_booked(stage, 40)
    await first.kill()
    await stage.worker()
    await stage.lapse_lease(C)
    await eventually(lambda: len(stage.gateway.opened) == 2)
    stage.gateway.meters_of[turn] = meter_of(45)
    await stage.cancel(turn)
    await stage.ended(turn)
    assert await booked(stage) == 45


async def test_what_a_restarted_gateway_had_metered_stays_booked(stage: Stage) -> None:
    await stage.worker()
    turn = await hanging(stage)
    stage.gateway.meters_of[turn] = meter_of(40, instance="before")
    await until_booked(stage, 40)
    stage.gateway.restart()
    stage.gateway.meters_of[turn] = meter_of(5, instance="after")
    await stage.cancel(turn)
    await stage.ended(turn)
    assert await booked(stage) == 45


async def test_a_turn_whose_agent_died_is_booked(stage: Stage) -> None:
    await stage.worker()
    turn = await hanging(stage)
    stage.gateway.meters_of[turn] = meter_of(12)
    await stage.machine.kill(C)
    assert (await stage.ended(turn)).state is not TurnState.DONE
    assert await booked(stage) == 12


async def test_a_side_turn_is_booked_to_its_tenant(redis: Redis) -> None:
    async with Stage(redis) as stage:
        await stage.worker()
        turn = await stage.ask_side(C, "Weekend Plans", is_hinted=False)
        stage.gateway.meters_of[turn] = meter_of(7)
        await stage.store.queue.enqueue_side(turn)
        assert (await stage.ended(turn)).state is TurnState.DONE
        assert await booked(stage) == 7
        assert (await stage.store.usage.of_conversation(C)).is_empty


async def test_a_side_turn_may_say_no_more_than_the_budget_leaves(redis: Redis) -> None:
    async with Stage(redis, turn_budget_tokens=50) as stage:
        await stage.worker()
        turn = await stage.ask_side(C, "Weekend Plans", is_hinted=False)
        await stage.store.queue.enqueue_side(turn)
        await eventually(lambda: bool(stage.gateway.side_calls))
        assert stage.gateway.side_calls[0].body["max_tokens"] == 50


async def test_a_side_turn_that_breaks_is_booked_too(redis: Redis) -> None:
    async with Stage(redis) as stage:
        stage.gateway.upstream = lambda call: UpstreamAnswer(200, None, stream_of(SSE_START))
        await stage.worker()
        turn = await stage.ask_side(C, "Weekend Plans", is_hinted=False)
        stage.gateway.meters_of[turn] = meter_of(7)
        await stage.store.queue.enqueue_side(turn)
        assert (await stage.ended(turn)).state is TurnState.FAILED
        assert await booked(stage) == 7


async def test_the_gateway_is_told_the_models_and_what_the_budget_leaves(redis: Redis) -> None:
    async with Stage(redis, turn_budget_tokens=500, tenant_budget_tokens=1000) as stage:
        await spend_today(stage, 700)
        await stage.worker()
        turn = await hanging(stage)
        opened = stage.gateway.turns[C]
        assert opened.models[0] == "claude-test"
        assert set(stage.settings.models) < set(opened.models)
        assert opened.budget_tokens == 300
        # Another turn of the tenant, on another host, spends 250 of them.
        await spend_today(stage, 950)
        stage.gateway.meters_of[turn] = meter_of(20)
        await eventually(lambda: stage.gateway.turns[C].budget_tokens == 20 + 50 - 20)


async def test_without_budgets_the_gateway_gets_none(stage: Stage) -> None:
    await stage.worker()
    await hanging(stage)
    assert stage.gateway.turns[C].budget_tokens is None


async def test_a_turn_the_gateway_stopped_ends_with_budget_exceeded_and_its_text(
    redis: Redis,
) -> None:
    async with Stage(redis, turn_budget_tokens=100) as stage:
        await stage.worker()
        turn = await stage.ask(C, "fail 402", is_hinted=False)
        stage.gateway.meters_of[turn] = meter_of(104, is_over_budget=True)
        await stage.store.queue.enqueue(turn, None)
        end = await stage.ended(turn)
        assert (end.state, code_of(end)) == (TurnState.FAILED, ErrorCode.BUDGET_EXCEEDED)
        assert end.error is not None
        assert end.error.retry_after_s is None
        # A budget of turns: the next one has its own.
        following = await stage.ask(C, "echo hello")
        assert (await stage.ended(following)).state is TurnState.DONE


async def test_an_answer_that_came_whole_is_no_failure_though_a_call_was_refused(
    redis: Redis,
) -> None:
    async with Stage(redis, turn_budget_tokens=100) as stage:
        await stage.worker()
        turn = await stage.ask(C, "echo hello", is_hinted=False)
        stage.gateway.meters_of[turn] = meter_of(104, is_over_budget=True)
        await stage.store.queue.enqueue(turn, None)
        assert (await stage.ended(turn)).state is TurnState.DONE


async def test_an_agent_that_goes_on_without_budget_is_stopped(redis: Redis) -> None:
    async with Stage(redis, turn_budget_tokens=100, disconnect_grace_s=0.2) as stage:
        await stage.worker()
        turn = await hanging(stage)
        stage.gateway.meters_of[turn] = meter_of(104, is_over_budget=True)
        end = await stage.ended(turn)
        assert (end.state, code_of(end)) == (TurnState.FAILED, ErrorCode.BUDGET_EXCEEDED)


async def test_a_tenant_without_budget_starts_nothing_until_the_day_ends(redis: Redis) -> None:
    async with Stage(redis, tenant_budget_tokens=1000) as stage:
        await spend_today(stage, 1000)
        await stage.worker()
        for turn in (await stage.ask(C, "echo hello"), await stage.ask_side(OTHER, "a title")):
            end = await stage.ended(turn)
            assert (end.state, code_of(end)) == (TurnState.FAILED, ErrorCode.BUDGET_EXCEEDED)
            assert end.error is not None
            assert end.error.retry_after_s is not None
            assert 0 < end.error.retry_after_s <= 86400
        assert stage.containers() == []
        assert stage.gateway.side_calls == []


async def test_a_turn_stopped_for_the_days_budget_says_when_the_next_begins(redis: Redis) -> None:
    async with Stage(redis, tenant_budget_tokens=1000) as stage:
        await stage.worker()
        turn = await stage.ask(C, "fail 402", is_hinted=False)
        stage.gateway.meters_of[turn] = meter_of(1001, is_over_budget=True)
        await stage.store.queue.enqueue(turn, None)
        end = await stage.ended(turn)
        assert code_of(end) is ErrorCode.BUDGET_EXCEEDED
        assert end.error is not None
        assert end.error.retry_after_s is not None


async def test_a_conversations_options_are_told_to_gateway_and_agent(stage: Stage) -> None:
    await stage.worker()
    kept = '{"egress_profile": "\\"research\\""}'
    await stage.redis.hset(stage.keys.conversation(C), "options", kept)  # type: ignore[misc]
    await hanging(stage)
    assert stage.gateway.turns[C].options == ConversationOptions(egress_profile="research")


async def test_answer_record_and_books_tell_the_same_over_a_restart_of_the_gateway(
    stage: Stage,
) -> None:
    """The agent knows its main thread only, and the second start of the gateway only its own."""
    await stage.worker()
    turn = await hanging(stage)
    stage.gateway.meters_of[turn] = meter_of(6000, instance="first")
    await until_booked(stage, 6000)
    stage.gateway.meters_of[turn] = meter_of(666, instance="second")
    await until_booked(stage, 6666)
    await stage.cancel(turn)
    end = await stage.ended(turn)
    record = await stage.store.turns.get(turn)
    assert record is not None
    books = (await stage.store.usage.of_conversation(C)).total.usage
    assert end.usage == record.usage == books
    assert end.usage.spent_tokens == 6666
