"""Budgets that stop a turn in its middle, as an agent sees it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from infra.wire.ids import Fence
from tests.fakes.scripted_model import RunningModel
from tests.integration.gateway.conftest import PATIENCE_S, Host, agent_at, asking
from tests.integration.gateway.test_real_cli import ask
from tests.parts import need

ENDLESS = "stream 2000 deltas every 5 ms"


async def test_a_call_beyond_the_budget_is_refused_for_good(
    host: Host, model: RunningModel
) -> None:
    folder = await host.open_session()
    await host.open_turn(budget_tokens=100)
    async with agent_at(folder) as agent:
        for status in (200, 402):
            body = asking("usage 60 41 0 900")
            async with agent.post("/v1/messages", json=body) as answer:
                assert answer.status == status
                told = await answer.read()
    assert answer.headers["x-should-retry"] == "false"
    assert json.loads(told)["error"]["type"] == "billing_error"
    assert len(model.journal.entries) == 1
    meter = await host.close_turn()
    assert (meter.calls, meter.usage.spent_tokens, meter.is_over_budget) == (1, 101, True)


async def test_a_whole_answer_that_just_passes_the_budget_is_not_cut(host: Host) -> None:
    folder = await host.open_session()
    await host.open_turn(budget_tokens=100)
    async with (
        agent_at(folder) as agent,
        agent.post("/v1/messages", json=asking("usage 90 400 0 0")) as answer,
    ):
        assert b"message_stop" in await answer.read()
    assert not (await host.close_turn()).is_over_budget


async def test_a_stream_is_cut_between_two_events_once_its_output_passes_the_budget(
    host: Host, model: RunningModel
) -> None:
    folder = await host.open_session()
    await host.open_turn(budget_tokens=1000)
    async with (
        agent_at(folder) as agent,
        agent.post("/v1/messages", json=asking(ENDLESS)) as answer,
    ):
        events = (await answer.read()).decode().split("\n\n")
    assert events.pop() == ""
    told = [json.loads(event.split("data: ", 1)[1])["type"] for event in events]
    assert told[-1] == "error"
    assert "message_stop" not in told
    assert 10 < told.count("content_block_delta") < 1000
    ended = await model.journal.wait_for(lambda e: e.ended is not None, timeout_s=PATIENCE_S)
    assert ended.ended == "aborted"
    meter = await host.close_turn()
    assert meter.is_over_budget
    assert 1000 <= meter.usage.spent_tokens < 1100


@pytest.mark.parametrize("stream", [True, False])
async def test_a_call_left_before_its_first_byte_spends_of_the_budget(
    host: Host, model: RunningModel, stream: bool
) -> None:
    """Else an agent that never waits for an answer would spend past any budget."""
    folder = await host.open_session()
    await host.open_turn(budget_tokens=1000)
    body = asking("hang" + " " * 4000, stream=stream)
    async with agent_at(folder) as agent:
        async with asyncio.TaskGroup() as group:
            call = group.create_task(agent.post("/v1/messages", json=body))
            await model.journal.wait_for(lambda entry: True, timeout_s=PATIENCE_S)
            call.cancel()
            await model.journal.wait_for(lambda e: e.ended == "aborted", timeout_s=PATIENCE_S)
        async with agent.post("/v1/messages", json=asking("echo more")) as answer:
            assert answer.status == 402
    meter = await host.close_turn()
    assert meter.calls == 1
    assert 1000 < meter.usage.input_tokens < 1100
    assert meter.usage.output_tokens == (0 if stream else 100)


async def test_a_turn_that_ends_before_an_answer_begins_is_told_its_estimate(
    host: Host, model: RunningModel
) -> None:
    folder = await host.open_session()
    await host.open_turn()
    body = asking("hang", stream=False)
    async with agent_at(folder) as agent, asyncio.TaskGroup() as group:
        call = group.create_task(agent.post("/v1/messages", json=body))
        await model.journal.wait_for(lambda entry: True, timeout_s=PATIENCE_S)
        meter = await host.close_turn()
        (await call).close()
    assert (meter.calls, meter.usage.output_tokens) == (1, 100)
    assert meter.usage.input_tokens > 0
    assert await host.close_turn() == meter, "booked once"


async def test_all_streams_of_a_turn_share_its_budget(host: Host) -> None:
    folder = await host.open_session()
    await host.open_turn(budget_tokens=1500)

    async def cut(agent_folder: Path) -> bytes:
        async with (
            agent_at(agent_folder) as agent,
            agent.post("/v1/messages", json=asking(ENDLESS)) as answer,
        ):
            return await answer.read()

    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(cut(folder)) for _ in range(3)]
    assert all(b"event: error" in call.result() for call in calls)
    assert 1500 <= (await host.close_turn()).usage.spent_tokens < 1700


async def test_a_budget_that_shrinks_stops_a_running_stream(host: Host) -> None:
    folder = await host.open_session()
    opened = await host.open_turn()
    async with (
        agent_at(folder) as agent,
        agent.post("/v1/messages", json=asking(ENDLESS)) as answer,
    ):
        await answer.content.readany()
        smaller = opened.model_copy(update={"budget_tokens": 1, "fence": Fence(2)})
        await host.worker.open_turn(smaller)
        assert b"event: error" in await answer.read()


@pytest.mark.sdk
@pytest.mark.timeout(180)
async def test_the_cli_does_not_try_again_when_its_stream_was_cut_for_the_budget(
    host: Host, model: RunningModel, tmp_path: Path
) -> None:
    need("sdk")
    folder = await host.open_session()
    await host.open_turn(budget_tokens=20_000)
    _, is_error = await ask(folder, tmp_path, "stream 20000 deltas of 200 chars")
    assert is_error
    assert len(model.journal.entries) == 1
    meter = await host.close_turn()
    assert meter.is_over_budget
