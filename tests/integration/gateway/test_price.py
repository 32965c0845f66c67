"""What a turn costs is counted to the token, no matter who of the agent asked the model for it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from infra.wire.events import Usage
from infra.wire.ids import TurnId
from infra.wire.states import TurnState
from tests.fakes.scripted_model import RunningModel
from tests.integration.gateway.agents_cli import cli_behind, told
from tests.integration.gateway.conftest import Host
from tests.parts import need

pytestmark = [pytest.mark.sdk, pytest.mark.timeout(180)]

PATIENCE_S = 60.0


def priced(say: object, *tokens: int, **more: object) -> str:
    return "message " + json.dumps({"say": [say], "tokens": tokens, **more})


def agent(prompt: str) -> str:
    given = {"description": "look", "prompt": prompt, "subagent_type": "general-purpose"}
    return "Agent " + json.dumps(given)


INNER = priced("found", 1111, 222, 33, 4, 5)
TURNS = {
    "plain": priced("hello", 100, 20, 3, 4, 5),
    "sub-agents in parallel": f"tools {agent(INNER)} ;; {agent(INNER)}",
    "a sub-agent of a sub-agent": f"tool {agent('tool ' + agent(INNER))}",
    "a search": 'tool WebSearch {"query":"weather"}',
    "a try that is refused": "error 529 times 1",
    "a stream that breaks": priced("one two three", 50, 6, cut={"kind": "drop", "after": 2}),
    "a stream with an error": priced("one two three", 50, 6, cut={"kind": "error", "after": 1}),
}

CALLS = dict(zip(TURNS, (1, 4, 5, 3, 2, 2, 2), strict=True))
"""At least so many: each sub-agent's own, and the search's."""


async def test_the_meter_says_what_the_model_has_sent(
    host: Host, model: RunningModel, tmp_path: Path
) -> None:
    need("sdk")
    folder = await host.open_session()
    tools = ("Agent", "WebSearch", "Bash")
    async with asyncio.timeout(150), cli_behind(folder, tmp_path, tools=tools) as cli:
        for n, (name, prompt) in enumerate(TURNS.items()):
            turn = TurnId(f"turn_{n:032x}")
            model.journal.clear()
            await host.open_turn(turn)
            await told(cli, prompt)
            meter = await host.close_turn(turn)
            assert meter.usage == _billed(model), name
            assert meter.calls >= CALLS[name], name


async def test_a_summary_of_the_conversation_is_in_the_price(
    host: Host, model: RunningModel, tmp_path: Path
) -> None:
    """The refusal that starts it, the call that summarises, and the answer."""
    need("sdk")
    folder = await host.open_session()
    await host.open_turn()
    async with asyncio.timeout(120), cli_behind(folder, tmp_path) as cli:
        for n in range(3):
            await told(cli, f"echo {n}")
        end, text = await told(cli, "fits 4 short again")
        meter = await host.close_turn()
    assert (end.state, text) == (TurnState.DONE, "short again"), end
    assert meter.usage == _billed(model)
    assert meter.calls >= 3 + 3


async def test_a_cancelled_turn_costs_what_had_come(
    host: Host, model: RunningModel, tmp_path: Path
) -> None:
    need("sdk")
    folder = await host.open_session()
    await host.open_turn()
    async with asyncio.timeout(120), cli_behind(folder, tmp_path) as cli:
        await cli.query("hang after 7")
        heard = 0
        async for message in cli.receive_messages():
            heard += "text_delta" in str(getattr(message, "event", ""))
            if heard == 7:
                break
        await cli.interrupt()
        meter = await host.close_turn()
    assert meter.usage == _billed(model)
    assert meter.usage.output_tokens == 7


def _billed(model: RunningModel) -> Usage:
    """The sum over all messages, as the scripted model sent them."""
    return sum((Usage(**entry.billed) for entry in model.journal.entries), start=Usage())
