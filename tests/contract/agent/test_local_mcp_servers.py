"""MCP servers that run beside the agent, through the real CLI."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.wire.events import Event, Notice, ToolCall, ToolResult
from infra.wire.mcp.secrets import AgentMcpServer
from tests.fakes.contained_agent import scripted_model
from tests.fakes.link_client import text_of
from tests.fakes.local_agent import LocalAgent, ask, local_agent
from tests.parts import need

pytestmark = [pytest.mark.sdk, pytest.mark.timeout(180)]

SERVER = (sys.executable, str(Path(__file__).parents[2] / "fakes" / "mcp_stdio.py"))
LOCAL = {"local": AgentMcpServer(command=SERVER, environment={"GREETING": "good day"})}


@pytest.fixture(scope="module")
def agent() -> Iterator[LocalAgent]:
    """One agent, whose tests are turns of one conversation."""
    need("sdk")
    with scripted_model() as folder, local_agent(folder / "model.sock") as one:
        yield one


async def turn(agent: LocalAgent, prompt: str, **more: AgentMcpServer) -> list[Event]:
    return await ask(agent, prompt, tools=("Bash",), mcp={**LOCAL, **more})


def calls(events: list[Event]) -> list[tuple[str, str]]:
    return [(e.name, e.summary) for e in events if isinstance(e, ToolCall | ToolResult)]


def notices(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Notice)]


async def test_its_tools_are_the_agents(agent: LocalAgent) -> None:
    events = await turn(agent, 'tool mcp__local__repeat {"text": "good day"}')
    assert "GOOD DAY" in text_of(events)
    assert calls(events) == [("local: repeat", "good day"), ("local: repeat", "ok, 1 line")]


async def test_it_sees_what_is_declared_and_no_more(agent: LocalAgent) -> None:
    seen = text_of(await turn(agent, "tool mcp__local__variables {}"))
    assert "GREETING=good day" in seen
    for ours in ("ANTHROPIC", "CLAUDE", "placeholder"):
        assert ours not in seen


async def test_it_is_there_in_every_turn_and_after_its_crash(agent: LocalAgent) -> None:
    for number in (1, 2):
        # The same process: what it remembers is there in the next turn.
        assert f"call {number}" in text_of(await turn(agent, "tool mcp__local__count {}"))
    crashed = await turn(agent, "tool mcp__local__crash {}")
    assert [e.is_error for e in crashed if isinstance(e, ToolResult)] == [True]
    assert "THREE" in text_of(await turn(agent, 'tool mcp__local__repeat {"text": "three"}'))


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (("/no/such/program",), "It wrote: /no/such/program: No such file or directory"),
        ((*SERVER, "fail", "no licence\x1b[31m found"), "It wrote: no licence found"),
        ((*SERVER, "hang"), "does not answer; its tools are missing."),
    ],
    ids=["missing", "fails", "hangs"],
)
async def test_one_that_does_not_work_is_told_with_its_words_and_holds_nobody(
    agent: LocalAgent, command: tuple[str, ...], told: str
) -> None:
    bad = AgentMcpServer(command=command)
    events = await turn(agent, 'tool mcp__local__repeat {"text": "still here"}', bad=bad)
    assert "STILL HERE" in text_of(events)
    (notice,) = notices(events)
    assert notice.startswith("The MCP server bad does not answer")
    assert notice.endswith(told)


async def test_a_picture_and_a_long_text_break_nothing(agent: LocalAgent) -> None:
    events = await turn(agent, "tool mcp__local__picture {} then echo seen")
    assert calls(events)[-1] == ("local: picture", "1 image")
    events = await turn(agent, 'tool mcp__local__many {"chars": 400000} then echo read')
    shown = [e for e in events if isinstance(e, ToolResult)]
    assert len(shown[0].summary) < 200
    assert len(shown[0].excerpt or "") <= 2000
    assert "read" in text_of(events)
    # Both are in its memory now, which another CLI takes over.
    again = await ask(agent, "echo good", tools=("Bash", "Read"), mcp=LOCAL)
    assert "good" in text_of(again)
