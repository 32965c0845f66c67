"""Model calls without an agent: a worker's side call through a real gateway."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from infra.runtime.sealing import SealContext, Sealer
from infra.wire.errors import GatewayUnavailable
from infra.wire.gateway import GatewayFault, SideCall
from tests.fakes.scripted_model import RunningModel
from tests.integration.gateway.conftest import (
    CONVERSATION,
    KEY,
    PATIENCE_S,
    SECRET,
    TENANT,
    TURN,
    Host,
    HostMaker,
    asking,
)
from worker.gateway.model.proxy import ModelLimits
from worker.gateway_client.client import CommandRefused, UpstreamAnswer

pytestmark = pytest.mark.timeout(60)


def call_of(host: Host, prompt: str, *, lasts_s: float = 60.0, **more: Any) -> SideCall:
    expires_ms = host.surroundings.clock.unix_ms() + int(lasts_s * 1000)
    context = SealContext(TENANT, CONVERSATION, TURN, expires_ms)
    return SideCall(
        turn=TURN,
        tenant=TENANT,
        conversation=CONVERSATION,
        sealed_key=Sealer(SECRET).seal(KEY, context),
        expires_ms=expires_ms,
        body=asking(prompt) | more,
    )


async def whole(host: Host, call: SideCall) -> tuple[UpstreamAnswer, bytes]:
    """The call made and its answer read to the end."""
    async with host.worker.complete(call) as answer:
        return answer, b"".join([chunk async for chunk in answer.chunks])


async def test_the_upstreams_bytes_come_back_without_a_session(
    host: Host, model: RunningModel
) -> None:
    answer, told = await whole(host, call_of(host, "echo a title"))
    assert answer.status == 200
    assert told.startswith(b"event: message_start\n")
    assert b"message_stop" in told
    [entry] = model.journal.entries
    assert entry.headers["x-api-key"] == KEY
    assert entry.headers["anthropic-version"]
    assert entry.path == "/v1/messages"


async def test_the_upstream_call_ends_when_the_worker_hangs_up(
    host: Host, model: RunningModel
) -> None:
    async with host.worker.complete(call_of(host, "hang after 1")) as answer:
        async for _ in answer.chunks:
            break
    await model.journal.wait_for(lambda e: e.ended == "aborted", timeout_s=PATIENCE_S)


async def test_a_side_call_left_before_its_first_byte_is_metered_by_an_estimate(
    host: Host, model: RunningModel
) -> None:
    call = call_of(host, "hang", stream=False)
    async with asyncio.TaskGroup() as group:
        asking_it = group.create_task(whole(host, call))
        await model.journal.wait_for(lambda entry: True, timeout_s=PATIENCE_S)
        asking_it.cancel()
    # As a worker does, at once.
    meter = await host.close_turn()
    assert (meter.calls, meter.usage.output_tokens) == (1, 100)
    assert meter.usage.input_tokens > 0
    await model.journal.wait_for(lambda e: e.ended == "aborted", timeout_s=PATIENCE_S)
    assert await host.close_turn() == meter, "booked once"


async def test_an_upstreams_failure_comes_with_its_status(host: Host) -> None:
    answer, told = await whole(host, call_of(host, "error 429 retry-after 7"))
    assert (answer.status, answer.retry_after_s) == (429, 7.0)
    assert json.loads(told)["error"]["type"] == "rate_limit_error"


async def test_a_stream_that_breaks_upstream_does_not_end_as_if_it_were_whole(host: Host) -> None:
    with pytest.raises(GatewayUnavailable):
        await whole(host, call_of(host, "drop after 2"))


async def test_an_expired_key_is_refused(host: Host, model: RunningModel) -> None:
    with pytest.raises(CommandRefused) as refused:
        await whole(host, call_of(host, "echo no", lasts_s=-1))
    assert refused.value.fault is GatewayFault.KEY_NOT_OPENED
    assert not model.journal.entries


async def test_a_body_beyond_the_bound_is_told_as_the_upstream_would(
    make_host: HostMaker, model: RunningModel
) -> None:
    host = make_host(upstream_url=model.url, model_limits=ModelLimits(body_max_bytes=500))
    async with host.gateway():
        answer, told = await whole(host, call_of(host, "echo " + "x" * 500))
    assert (answer.status, json.loads(told)["error"]["type"]) == (413, "request_too_large")
    assert not model.journal.entries


async def test_an_upstream_nobody_answers_at_is_a_502(
    make_host: HostMaker,
) -> None:
    host = make_host()
    async with host.gateway():
        answer, _ = await whole(host, call_of(host, "echo no"))
    assert answer.status == 502


async def test_a_gateway_that_is_away_is_said(make_host: HostMaker) -> None:
    host = make_host()
    with pytest.raises(GatewayUnavailable):
        await whole(host, call_of(host, "echo no"))
