"""The length that a client sets for its answer, enforced on calls of the model.

An agent that keeps to it hangs up by itself (`tests/contract/agent/test_bounds.py`). These do not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import aiohttp
import pytest

from infra.wire.options import AnswerForm, TurnOptions
from infra.wire.text.bounds import BYTES_PER_TOKEN
from tests.fakes.scripted_model import RunningModel
from tests.integration.gateway.conftest import PATIENCE_S, Host, agent_at, asking
from tests.integration.gateway.test_real_cli import ask
from tests.parts import need
from worker.gateway.model.spoken_text import CLASS_HEADER, SLACK_BYTES, SUB_AGENT_HEADER

LIMIT = TurnOptions(max_tokens=100)
WITHIN_BYTES = 100 * BYTES_PER_TOKEN + SLACK_BYTES
ENDLESS = "stream 5000 deltas every 1 ms of 40 chars"
LONG = "stream 500 deltas of 40 chars"
"""20 kB."""


def kinds_of(raw: bytes) -> list[str]:
    events = raw.decode().split("\n\n")
    assert events.pop() == "", "a part of an event"
    return [json.loads(event.split("data: ", 1)[1])["type"] for event in events]


async def call(
    agent: aiohttp.ClientSession, prompt: str, headers: Mapping[str, str] | None = None
) -> tuple[int, bytes]:
    async with agent.post("/v1/messages", json=asking(prompt), headers=headers) as answer:
        return answer.status, await answer.read()


async def test_a_stream_is_cut_and_the_next_call_refused(host: Host, model: RunningModel) -> None:
    folder = await host.open_session()
    await host.open_turn(turn_options=LIMIT)
    async with agent_at(folder) as agent:
        _, raw = await call(agent, ENDLESS)
        assert (await call(agent, "echo more"))[0] == 400
    kinds = kinds_of(raw)
    assert kinds[-2:] == ["content_block_stop", "error"], "the text stays, as a finished block"
    assert "message_stop" not in kinds
    assert WITHIN_BYTES < 40 * kinds.count("content_block_delta") < WITHIN_BYTES + 40_000
    ended = await model.journal.wait_for(lambda e: e.ended is not None, timeout_s=PATIENCE_S)
    assert ended.ended == "aborted"
    assert len(model.journal.entries) == 1
    assert not (await host.close_turn()).is_over_budget


async def test_text_counts_over_all_calls_of_a_turn_and_not_into_the_next(host: Host) -> None:
    folder = await host.open_session()
    opened = await host.open_turn(turn_options=LIMIT)
    async with agent_at(folder) as agent:
        prompt = "stream 125 deltas of 40 chars"
        assert kinds_of((await call(agent, prompt))[1])[-1] == "message_stop"
        assert kinds_of((await call(agent, prompt))[1])[0] == "message_start"
        # A worker that takes the turn over opens it again.
        await host.worker.open_turn(opened)
        assert (await call(agent, prompt))[0] == 400
        await host.close_turn()
        await host.open_turn(turn_options=LIMIT)
        assert (await call(agent, prompt))[0] == 200


@pytest.mark.parametrize(
    "headers",
    [{SUB_AGENT_HEADER: "a1"}, {CLASS_HEADER: "subagent"}, {CLASS_HEADER: "compaction"}],
)
async def test_what_no_user_reads_has_no_limit(host: Host, headers: dict[str, str]) -> None:
    folder = await host.open_session()
    await host.open_turn(turn_options=LIMIT)
    async with agent_at(folder) as agent:
        for _ in range(2):
            status, raw = await call(agent, LONG, headers)
            assert (status, kinds_of(raw)[-1]) == (200, "message_stop")
        assert (await call(agent, "echo ok"))[0] == 200


async def test_thoughts_and_inputs_of_tools_have_no_limit(host: Host) -> None:
    folder = await host.open_session()
    await host.open_turn(turn_options=LIMIT)
    async with agent_at(folder) as agent:
        for prompt in (f"think {'Hm. ' * 5000} => ok", f"tool write /f {'x' * 20_000}"):
            status, raw = await call(agent, prompt)
            assert (status, kinds_of(raw)[-1]) == (200, "message_stop")


async def test_an_answer_in_a_form_has_its_limit_elsewhere(host: Host) -> None:
    """It is the input of a tool; what the model says beside it is not shown as text."""
    options = TurnOptions(max_tokens=100, answer_form=AnswerForm()).for_gateway
    folder = await host.open_session()
    await host.open_turn(turn_options=options)
    async with agent_at(folder) as agent:
        assert kinds_of((await call(agent, LONG))[1])[-1] == "message_stop"


@pytest.mark.sdk
@pytest.mark.timeout(180)
async def test_the_cli_says_which_calls_are_its_sub_agents(
    host: Host, model: RunningModel, tmp_path: Path
) -> None:
    """It thinks within the call's own limit, which nobody lowers."""
    need("sdk")
    from agent.cli.setup import CliSetup, environment

    around = CliSetup(tmp_path, tmp_path / "m.sock", tmp_path / "c")
    ours = environment({}, around, mark="", proxy=None, variables={})
    hint = "CLAUDE_CODE_GATEWAY_HINT_HEADERS"
    folder = await host.open_session()
    await host.open_turn(turn_options=LIMIT)
    task = {"description": "d", "prompt": LONG, "subagent_type": "general-purpose"}
    prompt = f"tool Agent {json.dumps(task)} then echo done"
    assert await ask(folder, tmp_path, prompt, env={hint: ours[hint]}) == ("done", False)
    calls = [entry.headers for entry in model.journal.entries if entry.path == "/v1/messages"]
    assert [SUB_AGENT_HEADER in headers for headers in calls] == [False, True, False]
    assert not any(CLASS_HEADER in headers for headers in calls), "it is for the gateway"
    body = model.journal.last_body
    assert LIMIT.max_tokens < body["thinking"]["budget_tokens"] < body["max_tokens"]
