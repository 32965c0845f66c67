"""A client's functions, with the real SDK and CLI: what the model is offered, and what it is told.

None of the doors for this are documented (`agent.cli.offers`, `agent.memory.calls`): a CLI in which
they are gone fails here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from infra.wire.errors import ErrorCode
from infra.wire.events import ClientCall, EndReason, Event, ToolCall
from infra.wire.link import BaseKind
from infra.wire.options import AnswerForm, ClientTool, ClientTools, TurnOptions
from infra.wire.turns import CallBlock, HistoryMessage, ResultBlock, TextBlock
from tests.contract.agent.sdk.one_agent import agent_of
from tests.contract.agent.test_memory import ask, rewind, said, told
from tests.fakes.link_client import LinkClient, end_of, text_of
from tests.fakes.transcript_shelf import TranscriptShelf

pytestmark = [pytest.mark.sdk, pytest.mark.timeout(180)]

WEATHER = json.dumps(
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
)
ROME = 'tool get_weather {"city":"Rome"}'
WORK = f"tool bash echo before then {ROME} then tool bash echo after then echo done"


def offering(*names: str, **how: Any) -> TurnOptions:
    tools = tuple(ClientTool(name=name, description="d", parameters=WEATHER) for name in names)
    return TurnOptions(client_tools=ClientTools(tools=tools, **how))


ONE = offering("get_weather")


async def ask_anew(link: LinkClient, prompt: Any, **more: Any) -> list[Event]:
    return await ask(link, prompt, base=BaseKind.FRESH, **more)


def calls(events: list[Event]) -> list[ClientCall]:
    return [event for event in events if isinstance(event, ClientCall)]


def result(call: ClientCall | str, text: str, **more: Any) -> ResultBlock:
    id = call if isinstance(call, str) else call.id
    return ResultBlock(call=id, content=(TextBlock(text=text),), **more)


async def offered(model: Path) -> list[str]:
    """The tools of the newest request that are not the CLI's own."""
    transport = httpx.AsyncHTTPTransport(uds=str(model / "model.sock"))
    async with httpx.AsyncClient(transport=transport, base_url="http://model") as client:
        body = (await client.get("/_script/last")).json()
    own = {"Agent", "Bash", "Read", "Write"}
    return [tool["name"] for tool in body["tools"] if tool["name"] not in own]


async def test_a_call_ends_the_turn_and_its_result_goes_on_where_it_stopped(
    link: LinkClient, model: Path
) -> None:
    first = await ask_anew(link, WORK, turn_options=ONE)
    (call,) = calls(first)
    assert (call.name, call.arguments) == ("get_weather", '{"city":"Rome"}')
    assert call.id.startswith("call_")
    assert end_of(first).end_reason is EndReason.CALLS
    assert [event.name for event in first if isinstance(event, ToolCall)] == ["Bash"]

    second = await ask(link, (result(call, "sunny"),), turn_options=ONE)
    assert text_of(second) == "done"
    assert end_of(second).end_reason is EndReason.DONE
    assert await told(model) == [
        f"user: {WORK}",
        'assistant: call Bash "echo before"',
        "user: result before",
        "assistant: call get_weather null",
        "user: result sunny",
        'assistant: call Bash "echo after"',
        "user: result after",
    ]


async def test_functions_come_and_go_with_their_turns(link: LinkClient, model: Path) -> None:
    await ask_anew(link, "echo one")
    assert await offered(model) == []
    await ask(link, "echo two", turn_options=offering("a", "get_weather"))
    assert await offered(model) == ["a", "get_weather"]
    await ask(link, "echo three", turn_options=offering("b"))
    assert await offered(model) == ["b"]
    await ask(link, "echo four")
    assert await offered(model) == []


async def test_a_function_with_the_name_of_a_tool_is_told_by_its_own_name(
    link: LinkClient, model: Path
) -> None:
    script = 'tool client_Read {"city":"x"} then echo done'
    first = await ask_anew(link, script, turn_options=offering("Read"))
    assert await offered(model) == ["client_Read"]
    assert [call.name for call in calls(first)] == ["Read"]


async def test_calls_in_parallel_beside_a_tool_of_ours(link: LinkClient, model: Path) -> None:
    script = (
        'tools bash echo own ;; get_weather {"city":"A"} ;; get_weather {"city":"B"} then echo x'
    )
    first = await ask_anew(link, script, turn_options=ONE)
    a, b = calls(first)
    assert (a.arguments, b.arguments) == ('{"city":"A"}', '{"city":"B"}')
    await ask(link, (result(b, "cold"), result(a, "warm")), turn_options=ONE)
    assert (await told(model))[-1] in (
        "user: result warm | result cold | result own",
        "user: result own | result warm | result cold",
    )


async def test_wrong_arguments_are_given_back_to_the_model(link: LinkClient, model: Path) -> None:
    first = await ask(
        link, f'tool get_weather {{"town":1}} then {ROME} then echo x', turn_options=ONE
    )
    assert [call.arguments for call in calls(first)] == ['{"city":"Rome"}']
    assert "'city' is a required property" in (await told(model))[-1]


async def test_a_model_that_never_gets_the_arguments_right_is_given_up(link: LinkClient) -> None:
    wrong = " then ".join(['tool get_weather {"town":1}'] * 9)
    events = await ask_anew(link, wrong, turn_options=ONE)
    assert calls(events) == []
    error = end_of(events).error
    assert error is not None
    assert error.code is ErrorCode.NOT_AS_ASKED
    assert text_of(await ask(link, "echo well")) == "well"


async def test_one_call_at_a_time(link: LinkClient, model: Path) -> None:
    script = 'tools get_weather {"city":"A"} ;; get_weather {"city":"B"} then echo x'
    one = offering("get_weather", is_parallel=False)
    first = await ask_anew(link, script, turn_options=one)
    (call,) = calls(first)
    await ask(link, (result(call, "warm"),), turn_options=one)
    assert "One call at a time" in (await told(model))[-1]
    assert "result warm" in (await told(model))[-1]


async def test_a_call_that_is_required_is_asked_for_once_more(
    link: LinkClient, model: Path
) -> None:
    required = offering("get_weather", is_required=True)
    first = await ask_anew(link, f"echo prose then {ROME} then echo x", turn_options=required)
    assert (text_of(first), len(calls(first))) == ("prose", 1)
    assert "Call `get_weather` now" in (await told(model))[-1]


async def test_a_required_call_that_never_comes_is_an_error(link: LinkClient) -> None:
    required = offering("get_weather", is_required=True)
    events = await ask_anew(
        link, "echo prose then echo more then echo still", turn_options=required
    )
    error = end_of(events).error
    assert error is not None
    assert error.code is ErrorCode.NOT_AS_ASKED
    assert text_of(await ask(link, "echo well")) == "well"


async def test_missing_and_unknown_results_and_words_after_them(
    link: LinkClient, model: Path
) -> None:
    script = 'tools get_weather {"city":"A"} ;; get_weather {"city":"B"} then echo x'
    a, _ = calls(await ask_anew(link, script, turn_options=ONE))
    answer = (result("call_nobodys", "lost"), result(a, "warm"), TextBlock(text="echo words"))
    assert text_of(await ask(link, answer, turn_options=ONE)) == "words"
    assert (await told(model))[-1] == (
        "user: result warm | result The user's program gave no result for this call."
        " | [Result of call_nobodys] | lost | echo words"
    )


async def test_a_new_message_instead_of_results(link: LinkClient, model: Path) -> None:
    await ask_anew(link, f"{ROME} then echo x", turn_options=ONE)
    assert text_of(await ask(link, "echo never mind")) == "never mind"
    assert "gave no result" in (await told(model))[-1]


async def test_a_sub_agent_cannot_call_them(link: LinkClient, model: Path) -> None:
    task = json.dumps(
        {"description": "d", "prompt": f"{ROME} then echo sub", "subagent_type": "general-purpose"}
    )
    first = await ask_anew(link, f"tool Agent {task} => x", turn_options=ONE)
    assert calls(first) == []


async def test_another_agent_goes_on_from_the_transcript(model: Path) -> None:
    """Not a word is lost, and nobody calls the model before the result is there."""
    shelf = TranscriptShelf()
    async with agent_of(model, shelf) as link:
        first = await ask(link, WORK.replace(ROME, f"say hm + {ROME}"), turn_options=ONE)
        expected = await told(model)
    (call,) = calls(first)
    checkpoint = end_of(first).checkpoint
    async with agent_of(model, shelf) as link:
        second = await ask(
            link,
            (result(call, "sunny"),),
            turn_options=ONE,
            transcript=shelf.transcript(),
            checkpoint=checkpoint,
        )
        assert text_of(second) == "done"
        assert (await told(model))[: len(expected) + 2] == [
            *expected,
            "assistant: hm | call get_weather null",
            "user: result sunny",
        ]
        third = await ask(link, "echo on")
        assert text_of(third) == "on"
    async with agent_of(model, shelf) as link:
        await ask(link, "echo more", transcript=shelf.transcript())
        assert "result sunny" in "".join(await told(model))


async def test_another_agent_goes_on_with_parallel_calls_beside_a_tool(model: Path) -> None:
    shelf = TranscriptShelf()
    script = (
        'tools bash echo own ;; get_weather {"city":"A"} ;; get_weather {"city":"B"} then echo x'
    )
    async with agent_of(model, shelf) as link:
        a, b = calls(await ask(link, script, turn_options=ONE))
    async with agent_of(model, shelf) as link:
        answer = (result(a, "warm"), result(b, "cold"))
        end = await ask(link, answer, turn_options=ONE, transcript=shelf.transcript())
        assert text_of(end) == "x"
        assert (await told(model))[-2:] == [
            'assistant: call Bash "echo own" | call get_weather null | call get_weather null',
            "user: result own | result warm | result cold",
        ]


async def test_the_sent_messages_alone_are_enough(link: LinkClient, model: Path) -> None:
    call = CallBlock(id="call_1", name="get_weather", arguments='{"city":"Rome"}')
    history = (
        *said(f"{ROME} then echo done"),
        HistoryMessage(role="assistant", content=(call,)),
    )
    events = await ask_anew(link, (result("call_1", "sunny"),), history=history, turn_options=ONE)
    assert text_of(events) == "done"
    assert await told(model) == [
        f"user: {ROME} then echo done",
        "assistant: call get_weather null",
        "user: result sunny",
    ]


async def test_another_result_for_the_same_call(link: LinkClient, model: Path) -> None:
    """Regenerating the answer to a result, or going back to send another one."""
    first = await ask_anew(link, f"{ROME} then history", turn_options=ONE)
    (call,) = calls(first)
    await ask(link, (result(call, "sunny"),), turn_options=ONE)
    await rewind(link, (result(call, "rain"),), first, turn_options=ONE)
    assert (await told(model))[-2:] == ["assistant: call get_weather null", "user: result rain"]


async def test_a_function_of_the_older_form_is_known_by_its_name(
    link: LinkClient, model: Path
) -> None:
    legacy = offering("get_weather", is_parallel=False, is_legacy=True)
    (call,) = calls(await ask_anew(link, f"{ROME} then echo done", turn_options=legacy))
    assert call.is_legacy
    answer = (ResultBlock(name="get_weather", content=(TextBlock(text="sunny"),)),)
    assert text_of(await ask(link, answer, turn_options=legacy)) == "done"


async def test_a_checkpoint_at_an_open_call_stays_one_in_another_agent(model: Path) -> None:
    """The answer with the call is told again there, and can be gone back to as before."""
    shelf = TranscriptShelf()
    script = 'tools bash echo own ;; get_weather {"city":"A"} then history'
    async with agent_of(model, shelf) as link:
        first = await ask(link, script, turn_options=ONE)
    (call,) = calls(first)
    async with agent_of(model, shelf) as link:
        past = {"transcript": shelf.transcript(), "checkpoint": end_of(first).checkpoint}
        await ask(link, (result(call, "sunny"),), turn_options=ONE, **past)
        for told_now in ("rain", "snow"):
            await rewind(link, (result(call, told_now),), first, turn_options=ONE)
            assert (await told(model))[-2:] == [
                'assistant: call Bash "echo own" | call get_weather null',
                f"user: result own | result {told_now}",
            ]


async def test_an_answer_in_a_form_may_need_a_function_first(link: LinkClient) -> None:
    both = ONE.model_copy(update={"answer_form": AnswerForm()})
    script = f"{ROME} then tool give_answer " + '{"sky":"blue"}'
    (call,) = calls(await ask_anew(link, script, turn_options=both))
    answer = await ask(link, (result(call, "sunny"),), turn_options=both)
    assert text_of(answer) == '{"sky":"blue"}'
    assert end_of(answer).end_reason is EndReason.DONE
