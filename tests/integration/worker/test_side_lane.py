"""The side lane on real parts: a worker, a real redis-server, a real gateway, a scripted model."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from redis.asyncio import Redis

from infra.runtime.sealing import Sealer
from infra.runtime.settings import EgressPolicy
from infra.wire.errors import ErrorCode
from infra.wire.events import is_end
from infra.wire.ids import TurnId
from infra.wire.states import TurnState
from tests.fakes.scripted_model import RunningModel, running_model
from tests.fakes.worker_stage import Stage, conversation, eventually
from worker.gateway.egress.proxy import EgressRules
from worker.gateway.main import GatewayConfig, serve
from worker.gateway_client.client import GatewayClient

pytestmark = [pytest.mark.redis, pytest.mark.timeout(120)]

SECRET = b"a secret of the cluster with 32 bytes and more"
KEY = "sk-ant-canary-0123456789abcdef"


@asynccontextmanager
async def gateway_before(model: RunningModel) -> AsyncIterator[GatewayClient]:
    folder = Path(tempfile.mkdtemp(prefix="agc-sl-"))
    config = GatewayConfig(
        data_dir=folder,
        control_socket=folder / "gateway" / "control.sock",
        secret=SECRET,
        upstream_url=model.url,
        egress=EgressRules(EgressPolicy.NONE),
        drain_timeout_s=0.0,
    )
    stop, is_ready = asyncio.Event(), asyncio.Event()
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(serve(config, stop, is_ready=is_ready))
            async with asyncio.timeout(20):
                await is_ready.wait()
            async with GatewayClient(config.control_socket) as client:
                yield client
            stop.set()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def real_stage(redis: Redis) -> AsyncIterator[tuple[Stage, RunningModel]]:
    async with (
        running_model() as model,
        gateway_before(model) as gateway,
        Stage(redis) as stage,
    ):
        stage.real_gateway = gateway
        stage.seal = lambda context: Sealer(SECRET).seal(KEY, context)
        yield stage, model


async def test_a_side_turn_is_the_models_answer_with_the_callers_key(redis: Redis) -> None:
    async with real_stage(redis) as (stage, model):
        await stage.worker()
        turn = await stage.ask_side(conversation("s"), "echo Weekend in Rome")
        end = await stage.ended(turn)
        assert end.state is TurnState.DONE
        assert end.usage.output_tokens > 0
        assert await stage.log_text(turn) == "Weekend in Rome"
        [entry] = model.journal.entries
        assert entry.headers["x-api-key"] == KEY
        assert entry.facts["tools"] == 0


async def test_a_cancelled_side_turn_ends_its_model_call(redis: Redis) -> None:
    async with real_stage(redis) as (stage, model):
        await stage.worker()
        turn = await stage.ask_side(conversation("s"), "hang after 1")
        await stage.until_said(turn, 1)
        await stage.cancel(turn)
        assert (await stage.ended(turn)).state is TurnState.CANCELLED
        await model.journal.wait_for(lambda entry: entry.ended == "aborted", timeout_s=20)


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("error 429 retry-after 7", ErrorCode.RATE_LIMITED),
        ("error 529", ErrorCode.OVERLOADED),
        ("error 529 after 2", ErrorCode.OVERLOADED),
        ("drop after 2", ErrorCode.UPSTREAM_ERROR),
    ],
)
async def test_an_upstreams_trouble_is_said_as_an_agents_would_be(
    redis: Redis, script: str, code: ErrorCode
) -> None:
    async with real_stage(redis) as (stage, _):
        await stage.worker()
        turn = await stage.ask_side(conversation("s"), script)
        end = await stage.ended(turn)
        assert end.error is not None
        assert (end.state, end.error.code) == (TurnState.FAILED, code)


def has_ended(stage: Stage, turn: TurnId) -> bool:
    return any(is_end(frame.payload) for frame in stage.frames[turn])


async def test_side_turns_wait_for_nothing_but_the_model(redis: Redis) -> None:
    """From the submit to the end in the log, one after the other, on a busy machine."""
    async with real_stage(redis) as (stage, _):
        await stage.worker_with_real_rhythm()
        took_ms = []
        for i in range(21):
            began = time.perf_counter()
            turn = await stage.ask_side(conversation(f"s{i}"), "echo Title")
            await eventually(partial(has_ended, stage, turn))
            took_ms.append((time.perf_counter() - began) * 1000)
        median = sorted(took_ms[1:])[10]
        print(f"a side turn with an instant model: {median:.1f} ms")
        assert median < 250
