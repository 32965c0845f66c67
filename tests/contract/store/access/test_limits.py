"""What submit refuses, what it never refuses, and that a bound is a bound."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from infra.store.access.limits import SubmitLimits, retry_after_s
from infra.store.turns.turns import Submitted
from infra.wire.errors import ErrorCode, RequestRefused
from infra.wire.turns import Lane
from tests.contract.store.placing import A, B, conversation_of
from tests.contract.store.scene import C, Scene


async def offer(
    scene: Scene, limits: SubmitLimits, n: int = 0, *, tenant: str = "a", lane: Lane = Lane.AGENT
) -> Submitted:
    owner = A if tenant == "a" else B
    new = scene.new_turn(conversation_of(owner, n), tenant=owner)
    new = replace(new, request=new.request.model_copy(update={"lane": lane}))
    return await scene.offer(new, limits=limits)


def bounded(**bounds: int) -> SubmitLimits:
    return SubmitLimits(**{"turns_waiting_max": 100, **bounds})


async def test_a_full_cluster_refuses_with_a_time_to_come_back(scene: Scene) -> None:
    limits = bounded(queue_max=2)
    await offer(scene, limits, 0)
    await offer(scene, limits, 1, tenant="b")

    with pytest.raises(RequestRefused, match="2 requests are waiting") as refused:
        await offer(scene, limits, 2)

    assert refused.value.code is ErrorCode.CLUSTER_FULL
    assert refused.value.retry_after_s == 5.0
    assert await scene.store.conversations.get(conversation_of(A, 2)) is None


async def test_a_turn_that_needs_no_worker_is_not_refused_by_a_full_cluster(scene: Scene) -> None:
    limits = bounded(queue_max=1)
    await offer(scene, limits, 0)
    await scene.begin()

    await scene.offer(scene.new_turn(C), limits=limits)
    await offer(scene, limits, 1, lane=Lane.SIDE)


async def test_the_cluster_takes_turns_again_when_one_has_been_taken(scene: Scene) -> None:
    limits = bounded(queue_max=1)
    await offer(scene, limits, 0)
    await scene.acquire(c=conversation_of(A, 0))

    await offer(scene, limits, 1)


async def test_a_tenants_open_turns_are_bounded_and_no_others(scene: Scene) -> None:
    limits = bounded(tenant_turns_max=2)
    first = await offer(scene, limits, 0)
    await offer(scene, limits, 1, lane=Lane.SIDE)
    await scene.claim(await scene.acquire(c=conversation_of(A, 0)))

    with pytest.raises(RequestRefused, match="are open already") as refused:
        await offer(scene, limits, 2, lane=Lane.SIDE)

    assert refused.value.code is ErrorCode.TENANT_LIMIT
    await offer(scene, limits, 0, tenant="b")
    await scene.store.turns.cancel(first.turn, tenant=A, reason="still runs")
    with pytest.raises(RequestRefused):
        await offer(scene, limits, 2)


async def test_a_tenants_waiting_turns_are_bounded_and_its_running_ones_are_not(
    scene: Scene,
) -> None:
    limits = bounded(tenant_queue_max=1)
    await offer(scene, limits, 0)
    with pytest.raises(RequestRefused, match="are waiting already") as refused:
        await offer(scene, limits, 1)
    assert refused.value.code is ErrorCode.TENANT_LIMIT

    lease = await scene.acquire(c=conversation_of(A, 0))
    claimed = await scene.claim(lease)
    await offer(scene, limits, 1)

    await scene.store.turns.requeue(lease, claimed.record.turn)
    waiting = await scene.redis.zcard(scene.keys.tenant_waiting(A))
    assert waiting == 2


async def test_a_repeat_is_never_refused(scene: Scene) -> None:
    limits = bounded(queue_max=1, tenant_turns_max=1, tenant_queue_max=1)
    new = scene.new_turn(C, idempotency="digest")
    first = await scene.offer(new, limits=limits)

    assert (await scene.offer(new, limits=limits)).turn == first.turn
    repeat = await scene.offer(scene.new_turn(C, idempotency="digest"), limits=limits)
    assert (repeat.turn, repeat.created) == (first.turn, False)


async def test_nothing_bounds_what_has_no_bound(scene: Scene) -> None:
    for n in range(12):
        await offer(scene, bounded(), n)


async def test_turns_whose_records_have_expired_do_not_count(scene: Scene) -> None:
    limits = bounded(tenant_turns_max=1, tenant_queue_max=1, queue_max=1)
    for name in (
        scene.keys.tenant_running(A),
        scene.keys.tenant_waiting(A),
        scene.keys.turns_waiting(),
    ):
        await scene.redis.zadd(name, {"turn_long-gone": 1})

    submitted = await offer(scene, limits)

    assert await scene.redis.zrange(scene.keys.tenant_running(A), 0, -1) == [
        submitted.turn.encode()
    ]


@pytest.mark.parametrize(
    "bounds", [{"queue_max": 10}, {"tenant_turns_max": 10}, {"tenant_queue_max": 10}]
)
@pytest.mark.redis
async def test_a_hundred_at_once_pass_a_bound_of_ten_exactly_ten_times(
    real_scene: Scene, bounds: dict[str, int]
) -> None:
    answers = await asyncio.gather(
        *(offer(real_scene, bounded(**bounds), n) for n in range(100)), return_exceptions=True
    )

    passed = [answer for answer in answers if isinstance(answer, Submitted)]
    refused = [answer for answer in answers if isinstance(answer, RequestRefused)]
    assert (len(passed), len(refused)) == (10, 90)


@pytest.mark.parametrize(("oldest_s", "wait_s"), [(0, 5), (49, 5), (120, 12), (4000, 30)])
def test_a_refused_caller_comes_back_when_a_tenth_has_gone(oldest_s: int, wait_s: float) -> None:
    assert retry_after_s(oldest_s * 1000) == wait_s
