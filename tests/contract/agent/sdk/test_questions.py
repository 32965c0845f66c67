"""The agent asks its user in plain chat, with the real SDK and CLI."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from infra.wire.events import EndReason, Event, ToolCall
from infra.wire.link import BaseKind
from infra.wire.options import AnswerForm, ClientTool, ClientTools, TurnOptions
from tests.contract.agent.sdk.one_agent import agent_of
from tests.contract.agent.test_memory import TOOLS, said, told
from tests.fakes.link_client import LinkClient, end_of, start_turn, text_of
from tests.fakes.transcript_shelf import TranscriptShelf

pytestmark = [pytest.mark.sdk, pytest.mark.timeout(180)]

QUESTION = {
    "question": "Which database?",
    "header": "Database",
    "options": [
        {"label": "Postgres", "description": "a server"},
        {"label": "SQLite", "description": "a file"},
    ],
    "multiSelect": False,
}
ASKS = f"tool AskUserQuestion {json.dumps({'questions': [QUESTION]})}"
SHOWN = "**Which database?**\n\n1. Postgres: a server\n2. SQLite: a file"
WORK = f"tool bash echo before then {ASKS} then tool bash echo after then echo done"
_numbers = itertools.count(1)


async def ask(
    link: LinkClient,
    prompt: str,
    *,
    asks: bool = True,
    options: TurnOptions | None = None,
    **more: Any,
) -> list[Event]:
    """A turn of an agent that may ask."""
    start = start_turn(f"q{next(_numbers)}", prompt, **{"tools": TOOLS, **more})
    settings = start.settings.model_copy(update={"asks_questions": asks})
    changed = {"settings": settings, "turn_options": options or TurnOptions()}
    return await link.run(start.model_copy(update=changed))


async def test_a_question_ends_the_turn_and_the_next_words_answer_it(
    link: LinkClient, model: Path
) -> None:
    first = await ask(link, WORK, base=BaseKind.FRESH)
    assert text_of(first) == SHOWN
    assert (end_of(first).end_reason, end_of(first).asks) == (EndReason.DONE, True)
    assert [event.name for event in first if isinstance(event, ToolCall)] == ["Bash"]
    second = await ask(link, "the second, please")
    assert (text_of(second), end_of(second).asks) == ("done", False)
    assert await told(model) == [
        f"user: {WORK}",
        'assistant: call Bash "echo before"',
        "user: result before",
        "assistant: call AskUserQuestion null",
        "user: result The user answered: the second, please",
        'assistant: call Bash "echo after"',
        "user: result after",
    ]


async def test_words_before_a_question_stand_apart(link: LinkClient) -> None:
    events = await ask(link, f"say I looked. + {ASKS}", base=BaseKind.FRESH)
    assert text_of(events) == f"I looked.\n\n{SHOWN}"


async def test_another_agent_goes_on_with_the_answer(model: Path) -> None:
    """Days later, on another host."""
    shelf = TranscriptShelf()
    async with agent_of(model, shelf) as link:
        await ask(link, WORK)
    async with agent_of(model, shelf) as link:
        second = await ask(link, "1", transcript=shelf.transcript())
        assert text_of(second) == "done"
        assert "user: result The user answered: 1" in await told(model)


async def test_the_sent_messages_alone_are_enough(link: LinkClient, model: Path) -> None:
    history = said("build it", SHOWN)
    events = await ask(link, "echo SQLite", base=BaseKind.FRESH, history=history)
    assert text_of(events) == "SQLite"
    assert (await told(model))[1] == f"assistant: {SHOWN}"


async def test_several_questions_are_numbered_and_asked_once(link: LinkClient, model: Path) -> None:
    both = json.dumps({"questions": [{"question": "A?"}, {**QUESTION, "multiSelect": True}]})
    events = await ask(link, f"tool AskUserQuestion {both}", base=BaseKind.FRESH)
    assert text_of(events).startswith("**1. A?**\n\n**2. Which database?** (several may be chosen)")
    twice = f"tools AskUserQuestion {both} ;; AskUserQuestion {both} then echo x"
    events = await ask(link, twice, base=BaseKind.FRESH)
    assert text_of(events).count("A?") == 1
    await ask(link, "yes")
    assert "You have asked already" in "".join(await told(model))


@pytest.mark.parametrize("given", ["{}", '{"questions": []}', '{"questions": [{"question": " "}]}'])
async def test_a_call_without_a_question_goes_back_to_the_model(
    link: LinkClient, given: str
) -> None:
    script = f"tool AskUserQuestion {given} then echo never mind"
    assert text_of(await ask(link, script, base=BaseKind.FRESH)) == "never mind"


@pytest.mark.parametrize(
    ("asks", "options"),
    [
        (False, TurnOptions()),
        (True, TurnOptions(answer_form=AnswerForm(schema_text='{"type":"object"}'))),
        (
            True,
            TurnOptions(
                client_tools=ClientTools(
                    tools=(ClientTool(name="f", description="d", parameters='{"type":"object"}'),),
                    is_required=True,
                )
            ),
        ),
    ],
    ids=["not allowed", "an object is wanted", "a call is wanted"],
)
async def test_where_a_question_would_be_no_answer_there_is_none(
    link: LinkClient, model: Path, asks: bool, options: TurnOptions
) -> None:
    await ask(link, "toolnames", base=BaseKind.FRESH, asks=asks, options=options)
    assert "AskUserQuestion" not in "".join(await told(model))
    events = await ask(link, f"{ASKS} then echo x", base=BaseKind.FRESH, asks=asks, options=options)
    assert "Which database?" not in text_of(events)
