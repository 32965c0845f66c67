"""How much the real CLI thinks, and where its answer ends: what the client named for the turn."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from infra.wire.events import EndReason, Event, TurnEnded
from infra.wire.options import Effort, TurnOptions, Verbosity
from infra.wire.states import TurnState
from tests.fakes.contained_agent import scripted_model
from tests.fakes.link_client import LinkClient, connected, start_turn, text_of
from tests.fakes.local_agent import LocalAgent, local_agent
from tests.parts import need

pytestmark = [pytest.mark.sdk, pytest.mark.timeout(120)]

_numbers = itertools.count(1)
OLD, NEW = "claude-sonnet-4-5-20250929", "claude-opus-5-5"
LONG = "stream 400 deltas every 20 ms plain"


@pytest.fixture(scope="module")
def model() -> Iterator[Path]:
    need("sdk")
    with scripted_model() as folder:
        yield folder / "model.sock"


@pytest.fixture(scope="module")
def agent(model: Path) -> Iterator[LocalAgent]:
    """One agent, and one conversation, for all of it."""
    with local_agent(model) as one:
        yield one


async def turn(link: LinkClient, prompt: str, *, model: str = OLD, **options: Any) -> list[Event]:
    start = start_turn(
        f"b{next(_numbers)}", prompt, model=model, turn_options=TurnOptions(**options)
    )
    return await link.run(start)


async def last_call(model: Path) -> dict[str, Any]:
    transport = httpx.AsyncHTTPTransport(uds=str(model))
    async with httpx.AsyncClient(transport=transport, base_url="http://model") as client:
        return dict((await client.get("/_script/last")).json())


def end_of(events: list[Event]) -> TurnEnded:
    assert isinstance(events[-1], TurnEnded)
    return events[-1]


async def test_a_model_with_levels_gets_the_effort_for_one_turn(
    model: Path, agent: LocalAgent
) -> None:
    async with connected(agent.socket) as (link, _):
        seen: dict[Effort | None, list[str]] = {}
        for effort in (None, Effort.LOW, Effort.XHIGH, Effort.MINIMAL, Effort.NONE, None):
            await turn(link, "echo a", model=NEW, effort=effort)
            seen.setdefault(effort, []).append((await last_call(model))["output_config"]["effort"])
    usual = seen[None]
    assert usual[0] == usual[1] != "low"
    assert [seen[one] for one in (Effort.LOW, Effort.XHIGH)] == [["low"], ["xhigh"]]
    assert [seen[one] for one in (Effort.MINIMAL, Effort.NONE)] == [["low"], ["low"]]


async def test_a_model_without_levels_gets_a_budget_for_one_turn(
    model: Path, agent: LocalAgent
) -> None:
    async with connected(agent.socket) as (link, _):
        seen = []
        for effort in (None, Effort.LOW, Effort.NONE, None):
            await turn(link, "echo a", effort=effort)
            thinking = (await last_call(model)).get("thinking") or {}
            seen.append(thinking.get("budget_tokens", 0))
    assert seen[0] == seen[3] > 10_000
    assert seen[1:3] == [4096, 0]


async def test_an_answer_ends_at_its_limit_and_the_agent_goes_on_from_there(
    model: Path, agent: LocalAgent
) -> None:
    async with connected(agent.socket) as (link, _):
        events = await turn(link, LONG, max_tokens=5)
        end = end_of(events)
        assert (end.state, end.end_reason, end.is_remembered) == (
            TurnState.DONE,
            EndReason.LENGTH,
            True,
        )
        said = text_of(events)
        assert said == "0 1 2 3 4 5 6 7 8 9 "
        assert text_of(await turn(link, "echo after")) == "after"
        assert said.strip() in str((await last_call(model))["messages"])


async def test_a_stop_sequence_ends_the_answer_and_is_never_shown(agent: LocalAgent) -> None:
    async with connected(agent.socket) as (link, _):
        events = await turn(link, LONG, stop=("7 8 9", "none"))
        assert text_of(events) == "0 1 2 3 4 5 6 "
        end = end_of(events)
        assert (end.state, end.end_reason) == (TurnState.DONE, EndReason.DONE)
        assert text_of(await turn(link, "echo whole 7 8 8", stop=("7 8 9",))) == "whole 7 8 8"


async def test_no_tool_runs_after_the_cut(agent: LocalAgent) -> None:
    async with connected(agent.socket) as (link, _):
        await turn(link, "say one two three + tool bash touch after-the-cut", stop=("two",))
        await turn(link, "sleep 300")
    assert not (agent.workspace / "after-the-cut").exists()


async def test_verbosity_is_a_line_for_the_model(model: Path, agent: LocalAgent) -> None:
    async with connected(agent.socket) as (link, _):
        await turn(link, "echo a", verbosity=Verbosity.LOW)
    assert "Keep your answer short." in str((await last_call(model))["messages"][-1])
