"""Functions of a client through the API, as the official client sees them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from infra.wire.events import ClientCall, EndReason, TextDelta, TurnEnded
from infra.wire.states import TurnState
from infra.wire.turns import CallBlock, ResultBlock, TextBlock
from tests.fakes.echo_worker import Script
from tests.fakes.running_api import MODEL, running_api

SCHEMA: Any = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
FUNCTION: Any = {"name": "weather", "parameters": SCHEMA, "strict": True}
TOOLS: Any = [{"type": "function", "function": FUNCTION}]
ROME, OSLO = '{"city":"Rome"}', '{"city":"Oslo"}'
CALLED = TurnEnded(state=TurnState.DONE, end_reason=EndReason.CALLS)


def call(id: str, arguments: str, **more: Any) -> ClientCall:
    return ClientCall(id=id, name="weather", arguments=arguments, **more)


SCRIPT: Script = {
    "weather?": [TextDelta(text="Looking."), call("call_1", ROME), call("call_2", OSLO), CALLED],
    "silent": [call("call_3", ROME), CALLED],
    "older": [call("call_4", ROME, is_legacy=True), CALLED],
}


def user(text: str) -> Any:
    return {"role": "user", "content": text}


async def test_a_stream_ends_with_the_calls() -> None:
    async with running_api(SCRIPT) as api, api.openai() as client:
        async with client.chat.completions.stream(
            model=MODEL, messages=[user("weather?")], tools=TOOLS
        ) as stream:
            names = [
                event.name
                async for event in stream
                if event.type == "tool_calls.function.arguments.delta"
            ]
            final = await stream.get_final_completion()
        assert set(names) == {"weather"}
        (choice,) = final.choices
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content == "Looking."
        assert [(c.id, c.function.arguments) for c in choice.message.tool_calls or ()] == [
            ("call_1", ROME),
            ("call_2", OSLO),
        ]


async def test_an_answer_that_is_not_streamed_and_its_results() -> None:
    async with running_api(SCRIPT) as api, api.openai() as client:
        messages: list[Any] = [user("silent")]
        answer = await client.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS)
        (choice,) = answer.choices
        assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
        messages += [
            choice.message,
            {"role": "tool", "tool_call_id": "call_3", "content": "sunny"},
        ]
        await client.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS)
        first, second = api.worker.requests
        assert second.conversation == first.conversation, "found by the call, without a name"
        assert second.prompt == (ResultBlock(call="call_3", content=(TextBlock(text="sunny"),)),)
        assert second.history[-1].content == (
            CallBlock(id="call_3", name="weather", arguments=ROME),
        )
        assert first.turn_options.client_tools is not None


async def test_an_answer_without_calls_has_no_field_for_them() -> None:
    """Programs look whether the key is there."""
    async with running_api(SCRIPT) as api:
        message = (await api.chat("hi", tools=TOOLS)).json()["choices"][0]["message"]
        assert {"tool_calls", "function_call"}.isdisjoint(message)


async def test_the_older_form() -> None:
    async with running_api(SCRIPT) as api, api.openai() as client:
        asked: Any = {"model": MODEL, "messages": [user("older")], "functions": [FUNCTION]}
        (choice,) = (await client.chat.completions.create(**asked)).choices
        assert choice.finish_reason == "function_call"
        assert choice.message.function_call.arguments == ROME
        stream = await client.chat.completions.create(**asked, stream=True)
        chunks = [chunk.choices[0] async for chunk in stream]
        told = [c.delta.function_call for c in chunks if c.delta.function_call]
        assert "".join(one.arguments or "" for one in told) == ROME
        assert chunks[-1].finish_reason == "function_call"


async def test_calls_are_read_again_by_their_turns_id() -> None:
    async with running_api(SCRIPT) as api:
        asked = (await api.chat("weather?", tools=TOOLS)).json()
        again = (await api.http.get(f"/v1/chat/completions/{asked['id']}")).json()
        assert again["choices"] == asked["choices"]
        stream = await api.http.get(f"/v1/chat/completions/{asked['id']}?stream=true")
        assert stream.text.count('"tool_calls":[') == 4
        assert '"finish_reason":"tool_calls"' in stream.text


@pytest.mark.parametrize(
    ("headers", "settings", "is_offered"),
    [
        ({}, {}, True),
        ({"x-openwebui-chat-id": "c"}, {}, False),
        ({"user-agent": "Python/3.11 aiohttp/3.13.0"}, {}, False),
        ({"x-openwebui-chat-id": "c", "x-agcluster-client-tools": "on"}, {}, True),
        ({}, {"client_tools": "off"}, False),
    ],
)
async def test_who_gets_the_clients_functions(
    headers: dict[str, str], settings: dict[str, str], is_offered: bool
) -> None:
    async with running_api(settings=settings) as api:
        answer = await api.chat("hi", tools=TOOLS, headers=headers)
        assert answer.status_code == 200
        (request,) = api.worker.requests
        assert (request.turn_options.client_tools is not None) is is_offered


async def test_a_bad_tool_is_refused_in_openais_form() -> None:
    async with running_api() as api:
        answer = await api.chat("hi", tools=[{"type": "function", "function": {"name": "a b"}}])
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (400, "tools[0].function.name")
        assert error["type"] == "invalid_request_error"
        assert json.dumps(error)
        assert not api.worker.requests


async def test_results_that_are_sent_twice_are_one_turn() -> None:
    """They are a prompt like any other, for repeats too."""
    async with running_api(SCRIPT) as api, api.openai() as client:
        messages: list[Any] = [user("silent")]
        named = {"X-Conversation-ID": "c"}
        answer = await client.chat.completions.create(
            model=MODEL, messages=messages, tools=TOOLS, extra_headers=named
        )
        messages += [
            answer.choices[0].message,
            {"role": "tool", "tool_call_id": "call_3", "content": "sunny"},
        ]
        ids = set()
        for _ in range(2):
            told = await client.chat.completions.create(
                model=MODEL,
                messages=messages,
                tools=TOOLS,
                extra_headers={**named, "Idempotency-Key": "k"},
            )
            ids.add(told.id)
        assert len(ids) == 1
        assert len(api.worker.requests) == 2
