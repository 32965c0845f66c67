"""Answers that have to be JSON, with the real SDK and CLI."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from infra.wire.errors import ErrorCode
from infra.wire.events import ClientCall, EndReason, Event, ThinkingDelta, ToolCall
from infra.wire.form.tool import FORM_TOOL, TRIES
from infra.wire.link import BaseKind
from infra.wire.options import AnswerForm, ClientTool, ClientTools, TurnOptions
from infra.wire.states import TurnState
from tests.contract.agent.sdk.one_agent import agent_of
from tests.contract.agent.sdk.test_client_functions import offered
from tests.contract.agent.test_memory import ask, stop_in, told
from tests.fakes.link_client import LinkClient, end_of, text_of
from tests.fakes.transcript_shelf import TranscriptShelf

pytestmark = [pytest.mark.sdk, pytest.mark.timeout(180)]

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
FORM = TurnOptions(answer_form=AnswerForm(name="trip", schema_text=json.dumps(SCHEMA)))
GOOD = '{"city":"Rome","days":3}'
WRONG = '{"city":"Rome","days":"three"}'


async def anew(link: LinkClient, prompt: str, options: TurnOptions = FORM) -> list[Event]:
    return await ask(link, prompt, base=BaseKind.FRESH, turn_options=options)


def code_of(events: list[Event]) -> ErrorCode | None:
    error = end_of(events).error
    return error.code if error else None


def reasoning(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, ThinkingDelta))


async def test_the_agent_works_and_ends_with_the_object(link: LinkClient, model: Path) -> None:
    events = await anew(link, f"say I look + tool bash echo hi then json {GOOD}")
    assert text_of(events) == GOOD
    assert end_of(events).end_reason is EndReason.DONE
    assert [event.name for event in events if isinstance(event, ToolCall)] == ["Bash"]
    assert reasoning(events) == "I look"
    assert (end_of(events).heads or ("",))[0] == GOOD


async def test_the_next_turn_goes_on_without_a_form(link: LinkClient, model: Path) -> None:
    await anew(link, f"json {GOOD}")
    assert await offered(model) == [FORM_TOOL]
    after = await ask(link, "echo plain")
    assert text_of(after) == "plain"
    assert await offered(model) == []
    said = await told(model)
    assert said[1:3] == [
        f"assistant: call {FORM_TOOL} null",
        "user: result Your answer was given. | echo plain",
    ]


async def test_a_wrong_object_is_given_back_and_the_right_one_is_the_answer(
    link: LinkClient, model: Path
) -> None:
    events = await anew(link, f"json {WRONG} then json {GOOD}")
    assert text_of(events) == GOOD
    assert any("`days`: 'three' is not of type 'integer'" in line for line in await told(model))


async def test_prose_is_followed_by_one_reminder(link: LinkClient, model: Path) -> None:
    events = await anew(link, f"echo Rome, for three days. then json {GOOD}")
    assert text_of(events) == GOOD
    assert "Rome, for three days." in reasoning(events)
    assert sum("You have not given your answer yet" in line for line in await told(model)) == 1


async def test_prose_that_is_the_object_is_the_answer(link: LinkClient) -> None:
    events = await anew(link, f"echo ```json {GOOD} ```")
    assert text_of(events) == GOOD


@pytest.mark.parametrize("never", ["echo no then echo never", " then ".join([f"json {WRONG}"] * 9)])
async def test_a_model_that_never_complies_is_an_error_and_no_prose(
    link: LinkClient, never: str
) -> None:
    events = await anew(link, never)
    assert text_of(events) == ""
    assert code_of(events) is ErrorCode.FORM_NOT_KEPT
    assert end_of(events).usage.output_tokens > 0
    after = await ask(link, f"json {GOOD}", turn_options=FORM)
    assert text_of(after) == GOOD


async def test_wrong_objects_are_given_back_only_so_often(link: LinkClient, model: Path) -> None:
    await anew(link, " then ".join([f"json {WRONG}"] * 9))
    assert sum("does not fit" in line for line in await told(model)) == TRIES - 1


async def test_an_object_of_any_shape(link: LinkClient) -> None:
    events = await anew(link, 'json {"a":[1,{"b":null}]}', TurnOptions(answer_form=AnswerForm()))
    assert text_of(events) == '{"a":[1,{"b":null}]}'


async def test_an_object_beside_other_calls(link: LinkClient) -> None:
    events = await anew(link, f"tools bash echo hi ;; {FORM_TOOL} {GOOD} ;; {FORM_TOOL} {WRONG}")
    assert text_of(events) == GOOD
    assert end_of(events).state is TurnState.DONE


async def test_names_that_the_messages_api_refuses(link: LinkClient) -> None:
    schema = {"type": "object", "properties": {"größe": {"type": "integer"}}}
    options = TurnOptions(answer_form=AnswerForm(schema_text=json.dumps(schema)))
    events = await anew(link, 'json {"answer":{"größe":1}}', options)
    assert text_of(events) == '{"größe":1}'


async def test_the_clients_functions_in_the_same_turn(link: LinkClient) -> None:
    tool = ClientTool(name="get_weather", description="d")
    both = FORM.model_copy(update={"client_tools": ClientTools(tools=(tool,))})
    first = await anew(link, f"tool get_weather {{}} then json {GOOD}", both)
    assert end_of(first).end_reason is EndReason.CALLS
    assert len([event for event in first if isinstance(event, ClientCall)]) == 1
    assert text_of(first) == ""
    again = await anew(link, f"json {GOOD}", both)
    assert text_of(again) == GOOD


async def test_it_goes_on_from_its_transcript_elsewhere(model: Path) -> None:
    shelf = TranscriptShelf()
    async with agent_of(model, shelf) as link:
        assert text_of(await anew(link, f"tool bash echo hi then json {GOOD}")) == GOOD
    async with agent_of(model, shelf) as link:
        events = await ask(link, f"json {GOOD}", turn_options=FORM, transcript=shelf.transcript())
        assert text_of(events) == GOOD
        assert (await told(model))[-1].startswith("user: result Your answer was given. | json")


@pytest.mark.parametrize("kind", [ToolCall, ThinkingDelta])
async def test_a_turn_that_is_stopped_before_its_answer_was_stopped(
    link: LinkClient, kind: type[Event]
) -> None:
    """It lacks an answer, but that is no fault of the model's."""
    script = "stream 40 deltas every 50 ms plain" if kind is ThinkingDelta else "tool bash sleep 30"
    events = await stop_in(
        link, f"{script} then json {GOOD}", kind, base=BaseKind.FRESH, turn_options=FORM
    )
    assert (end_of(events).state, text_of(events)) == (TurnState.CANCELLED, "")
    assert text_of(await ask(link, f"json {GOOD}", turn_options=FORM)) == GOOD
