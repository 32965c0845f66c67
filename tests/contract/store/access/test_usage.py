"""Sums of what turns use: each figure once, no matter who tells it and however often."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from infra.store.access.limits import SubmitLimits
from infra.store.access.usage import SpentTodayCall, UsageSums
from infra.store.server.scripts import load
from infra.wire.errors import ErrorCode, LeaseLost, RequestRefused
from infra.wire.events import Usage
from infra.wire.gateway import ModelUsage, TurnMeter
from tests.contract.store.scene import DONE, OTHER_C, OTHER_TENANT, TENANT, W2, C, Scene

LARGE, SMALL = "claude-large", "claude-small"


def used(calls: int, tokens: int) -> ModelUsage:
    usage = Usage(
        input_tokens=tokens,
        output_tokens=2 * tokens,
        cache_creation_input_tokens=3 * tokens,
        cache_read_input_tokens=100 * tokens,
        thinking_tokens=tokens,
    )
    return ModelUsage(calls=calls, usage=usage)


def metered(instance: str = "g1", **models: ModelUsage) -> TurnMeter:
    named: Mapping[str, ModelUsage] = {f"claude-{name}": told for name, told in models.items()}
    return TurnMeter(
        calls=sum(told.calls for told in named.values()), models=named, instance=instance
    )


def today() -> str:
    return datetime.now(UTC).strftime("%Y%m%d")


async def sums(scene: Scene) -> list[UsageSums]:
    usage = scene.store.usage
    return [
        await usage.of_conversation(C),
        await usage.of_tenant(TENANT),
        await usage.of_tenant(TENANT, day=today()),
    ]


async def test_a_turn_is_booked_to_its_conversation_its_tenant_and_the_day(scene: Scene) -> None:
    lease, turn = await scene.begin()
    meter = metered(large=used(2, 10), small=used(1, 1))
    spent = await scene.store.usage.book(lease, turn, meter)
    assert (spent.turn_tokens, spent.tenant_tokens) == (66, 66)
    assert 0 < spent.day_ends_in_s <= 86400
    for found in await sums(scene):
        assert found == UsageSums(total=used(3, 11), models={LARGE: used(2, 10), SMALL: used(1, 1)})
    assert (await scene.store.usage.spent(TENANT)).tenant_tokens == 66


async def test_what_is_told_again_is_not_booked_again(scene: Scene) -> None:
    lease, turn = await scene.begin()
    for meter in (metered(large=used(1, 5)), metered(large=used(1, 5)), metered(large=used(2, 8))):
        await scene.store.usage.book(lease, turn, meter)
    # An older one that was late, and the end, twice.
    await scene.store.usage.book(lease, turn, metered(large=used(1, 5)))
    for _ in range(2):
        await scene.store.turns.finish(
            lease, turn, 1, DONE, idle_timeout_s=60, meter=metered(large=used(2, 8))
        )
    for found in await sums(scene):
        assert found.total == used(2, 8)


async def test_a_gateway_that_restarted_counts_from_nothing_and_adds_to_it(scene: Scene) -> None:
    lease, turn = await scene.begin()
    await scene.store.usage.book(lease, turn, metered("g1", large=used(2, 8)))
    await scene.store.usage.book(lease, turn, metered("g2", large=used(1, 3)))
    await scene.store.turns.finish(
        lease, turn, 1, DONE, idle_timeout_s=60, meter=metered("g2", large=used(2, 4))
    )
    for found in await sums(scene):
        assert found.total == used(4, 12)
    [told] = await scene.redis.hmget(scene.keys.turn(turn), ["usage"])  # type: ignore[misc]
    assert Usage.model_validate_json(told) == used(0, 12).usage


async def test_a_report_from_before_thinking_was_counted_is_booked(scene: Scene) -> None:
    """While a deployment is renewed, older workers go on telling five figures."""
    lease, turn = await scene.begin()
    older = json.dumps({"g1": {LARGE: [1, 5, 10, 15, 500]}})
    await scene.store.usage.book(lease, turn, metered(large=used(1, 5)))
    await scene.redis.hset(scene.keys.turn(turn), "metered", older)  # type: ignore[misc]
    await scene.store.usage.book(lease, turn, metered(large=used(2, 8)))
    [told] = await scene.redis.hmget(scene.keys.turn(turn), ["usage"])  # type: ignore[misc]
    assert Usage.model_validate_json(told) == used(0, 8).usage


async def test_an_owner_that_lost_its_lease_books_nothing(scene: Scene) -> None:
    lease, turn = await scene.begin()
    await scene.lapse()
    successor = await scene.acquire(W2)
    with pytest.raises(LeaseLost):
        await scene.store.usage.book(lease, turn, metered(large=used(1, 5)))
    assert all(found.is_empty for found in await sums(scene))
    await scene.store.usage.book(successor, turn, metered(large=used(1, 5)))
    assert all(found.total == used(1, 5) for found in await sums(scene))


async def test_a_turn_of_another_conversation_is_not_booked(scene: Scene) -> None:
    lease, _ = await scene.begin()
    _, other = await scene.begin(W2, OTHER_C)
    with pytest.raises(LeaseLost):
        await scene.store.usage.book(lease, other, metered(large=used(1, 5)))


async def test_a_turn_nobody_metered_keeps_what_its_agent_says(scene: Scene) -> None:
    lease, turn = await scene.begin()
    end = DONE.model_copy(update={"usage": used(0, 1).usage})
    await scene.store.turns.finish(lease, turn, 1, end, idle_timeout_s=60, meter=TurnMeter())
    [told] = await scene.redis.hmget(scene.keys.turn(turn), ["usage"])  # type: ignore[misc]
    assert Usage.model_validate_json(told) == end.usage
    assert all(found.is_empty for found in await sums(scene))


async def test_sums_have_their_lifetimes(scene: Scene) -> None:
    lease, turn = await scene.begin()
    await scene.store.usage.book(lease, turn, metered(large=used(1, 5)))
    keys, redis = scene.keys, scene.redis
    days = 86400
    assert 399 * days < await redis.ttl(keys.tenant_usage(TENANT)) <= 400 * days
    assert 61 * days < await redis.ttl(keys.tenant_usage_of(TENANT, today())) <= 62 * days
    assert 3600 < await redis.ttl(keys.conversation_usage(C)) <= 4050
    await scene.store.turns.finish(lease, turn, 1, DONE, idle_timeout_s=60)
    await scene.store.conversations.delete(C, tenant=None, reason="test", is_forced=True)
    assert not await redis.exists(keys.conversation_usage(C))
    assert await redis.exists(keys.tenant_usage(TENANT))


async def test_yesterday_is_not_todays_budget(scene: Scene) -> None:
    yesterday = (datetime.now(UTC) - timedelta(days=1)).strftime("%Y%m%d")
    await scene.redis.hset(  # type: ignore[misc]
        scene.keys.tenant_usage_of(TENANT, yesterday), "spent_tokens", "500"
    )
    assert (await scene.store.usage.spent(TENANT)).tenant_tokens == 0


async def test_a_tenant_that_has_spent_its_day_submits_nothing_but_repeats(scene: Scene) -> None:
    lease, turn = await scene.begin()
    await scene.store.usage.book(lease, turn, metered(large=used(1, 10)))
    limits = SubmitLimits(turns_waiting_max=8, tenant_budget_tokens=60)
    with pytest.raises(RequestRefused) as refused:
        await scene.offer(scene.new_turn(OTHER_C), limits=limits)
    assert refused.value.code is ErrorCode.BUDGET_EXCEEDED
    assert refused.value.retry_after_s is not None
    assert 0 < refused.value.retry_after_s <= 86400
    again = scene.new_turn(C, turn=turn)
    assert (await scene.offer(again, limits=limits)).turn == turn
    other = scene.new_turn(OTHER_C, tenant=OTHER_TENANT)
    assert (await scene.offer(other, limits=limits)).created
    more = replace(limits, tenant_budget_tokens=61)
    assert (await scene.offer(scene.new_turn(OTHER_C), limits=more)).created


async def test_the_scripts_know_the_calendar(scene: Scene) -> None:
    shared = load(SpentTodayCall, scene.keys).source.rsplit("local now = now_ms()", 1)[0]
    script = shared + "return day_of(tonumber(ARGV[1]))"
    for told in ("19700101", "20000229", "20240229", "20251231", "20260101", "21000301"):
        day = datetime.strptime(told, "%Y%m%d").replace(tzinfo=UTC)
        for moment in (day, day + timedelta(days=1, microseconds=-1000)):
            found = await scene.redis.eval(script, 0, str(int(moment.timestamp() * 1000)))  # type: ignore[misc]
            assert found.decode() == told
