"""Calls of other agents, with the real CLI: what is asked of the worker, and what becomes of its
answers."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.wire.agents.delegation import AskDelegate, DelegateAnswered, DelegateDid
from infra.wire.events import Event, ToolCall, ToolResult, TurnEnded, decode_event
from infra.wire.frames import Frame
from infra.wire.ids import TurnId
from infra.wire.link import AgentSettings, Interrupt, InterruptReason, Replay, StartTurn
from infra.wire.states import TurnState
from tests.fakes.contained_agent import scripted_model
from tests.fakes.link_client import LinkClient, connected, start_turn, text_of
from tests.fakes.local_agent import LocalAgent, local_agent
from tests.parts import need

pytestmark = [pytest.mark.sdk, pytest.mark.timeout(120)]

_numbers = itertools.count(1)
DELEGATES = {"reviewer": "Reviews patches.", "analyst": "Knows pandas."}


@pytest.fixture(scope="module")
def model() -> Iterator[Path]:
    need("sdk")
    with scripted_model() as folder:
        yield folder / "model.sock"


@pytest.fixture(scope="module")
def agent(model: Path) -> Iterator[LocalAgent]:
    with local_agent(model) as one:
        yield one


def turn_of(prompt: str, **settings: Any) -> StartTurn:
    start = start_turn(f"d{next(_numbers)}", prompt)
    chosen = {"delegates": DELEGATES, "tools": ("Bash",), **settings}
    given = AgentSettings.model_validate(start.settings.model_dump() | chosen)
    return start.model_copy(update={"settings": given})


def call(agent: str = "reviewer", task: str = "look at it", **more: str) -> str:
    return "delegate " + json.dumps({"agent": agent, "task": task, **more})


async def asks(link: LinkClient, events: list[Event], count: int) -> list[AskDelegate]:
    """The next calls; events before them are kept."""
    found: list[AskDelegate] = []
    while len(found) < count:
        got = await link.read()
        if isinstance(got, Frame):
            events.append(decode_event(got.payload))
            assert not isinstance(events[-1], TurnEnded), events
        else:
            assert isinstance(got, AskDelegate), got
            found.append(got)
    return found


async def rest(link: LinkClient, events: list[Event]) -> list[Event]:
    events += [decode_event(frame.payload) async for frame in link.frames()]
    return events


def answer(ask: AskDelegate, text: str, *, is_error: bool = False) -> DelegateAnswered:
    return DelegateAnswered(turn=ask.turn, call=ask.call, text=text, is_error=is_error)


async def test_a_call_waits_for_its_answer_and_shows_the_work(agent: LocalAgent) -> None:
    async with connected(agent.socket) as (link, _):
        events: list[Event] = []
        await link.send(turn_of(f"tool {call()} then tool bash echo after"))
        [ask] = await asks(link, events, 1)
        assert (ask.agent, ask.task, ask.conversation) == ("reviewer", "look at it", None)
        did = ToolCall(id="t1", name="Bash", summary="make")
        for _ in range(2):  # A worker that took over tells it again.
            await link.send(DelegateDid(turn=ask.turn, call=ask.call, n=2, event=did))
        await link.send(answer(ask, "It is fine."))
        events = await rest(link, events)
    calls = [event for event in events if isinstance(event, ToolCall)]
    assert [(one.name, one.summary, one.parent) for one in calls] == [
        ("delegate", "reviewer: look at it", None),
        ("Bash", "make", calls[0].id),
        ("Bash", "echo after", None),
    ]
    results = [event for event in events if isinstance(event, ToolResult)]
    assert [one.name for one in results] == ["delegate", "Bash"]
    assert results[0].excerpt == "It is fine."
    assert text_of(events) == "tool said: after"


async def test_calls_at_once_are_asked_at_once(agent: LocalAgent) -> None:
    async with connected(agent.socket) as (link, _):
        events: list[Event] = []
        both = f"tools {call()} ;; {call('analyst', 'count it')}"
        await link.send(turn_of(both))
        first, second = await asks(link, events, 2)
        assert {first.agent, second.agent} == {"reviewer", "analyst"}
        await link.send(answer(second, "second-words"))
        await link.send(answer(first, "first-words", is_error=True))
        events = await rest(link, events)
    told = {one.excerpt: one.is_error for one in events if isinstance(one, ToolResult)}
    assert told == {"first-words": True, "second-words": False}


async def test_a_wrong_call_is_given_back_and_asks_nobody(agent: LocalAgent) -> None:
    async with connected(agent.socket) as (link, _):
        for wrong, told in (
            (call("nobody"), "There is no agent 'nobody'. You may call reviewer, analyst."),
            (call(task=" "), "There is no task in this call."),
            (call(task="x" * 20_000), "The task is too long"),
            (call(conversation="../x"), "`conversation` must be one"),
        ):
            assert told in text_of(await link.run(turn_of(f"tool {wrong}")))


async def test_a_turn_that_may_call_nobody_has_no_such_tool(agent: LocalAgent) -> None:
    async with connected(agent.socket) as (link, _):
        assert "delegate" in text_of(await link.run(turn_of("toolnames")))
        assert "delegate" not in text_of(await link.run(turn_of("toolnames", delegates={})))


async def test_another_worker_is_asked_again_and_answers_once(agent: LocalAgent) -> None:
    events: list[Event] = []
    start = turn_of(f"tool {call()}")
    async with connected(agent.socket) as (link, _):
        await link.send(start)
        [ask] = await asks(link, events, 1)
    async with connected(agent.socket, fence=2) as (link, welcome):
        assert welcome.turn == start.turn
        await link.send(Replay(turn=start.turn, after=len(events)))
        assert await asks(link, events, 1) == [ask]
        await link.send(answer(ask, "found again"))
        assert text_of(await rest(link, events)) == "tool said: found again"


async def test_an_interrupt_ends_a_turn_that_waits_for_an_answer(agent: LocalAgent) -> None:
    async with connected(agent.socket, fence=3) as (link, _):
        events: list[Event] = []
        await link.send(turn_of(f"tool {call()}"))
        [ask] = await asks(link, events, 1)
        await link.send(Interrupt(turn=TurnId(ask.turn), reason=InterruptReason.CANCELLED))
        ended = (await rest(link, events))[-1]
        assert isinstance(ended, TurnEnded)
        assert ended.state is TurnState.CANCELLED
        # A late answer is nobody's, and the next turn is like any other.
        await link.send(answer(ask, "too late"))
        assert text_of(await link.run(turn_of("echo next"))) == "next"
