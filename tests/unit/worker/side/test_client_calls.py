"""The client's functions in the side lane: passed on as they are, and told as calls."""

from __future__ import annotations

import json
from typing import Any

import pytest

from infra.wire.events import ClientCall
from infra.wire.history.paired import NO_RESULT
from infra.wire.options import AnswerForm, ClientTool, ClientTools, TurnOptions
from infra.wire.turns import CallBlock, HistoryMessage, ResultBlock, TextBlock
from tests.fakes.memory_gateway import SSE_END, SSE_START, sse
from tests.unit.worker.side.test_messages_api import read, request_of, said
from worker.side.client_calls import client_calls
from worker.side.messages_api import request_body

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}}
TOOL = ClientTool(name="f", description="d", parameters=json.dumps(SCHEMA))
CALL = CallBlock(id="call_1", name="f", arguments='{"n":1}')
RESULT = ResultBlock(call="call_1", content=(TextBlock(text="told"),))


def offering(**how: Any) -> TurnOptions:
    return TurnOptions(client_tools=ClientTools(tools=(TOOL,), **how))


def body_of(*prompt: Any, **more: Any) -> dict[str, Any]:
    return request_body(request_of(*prompt, **more), max_tokens=100)


@pytest.mark.parametrize(
    ("how", "choice"),
    [
        ({}, {"type": "auto"}),
        ({"is_required": True}, {"type": "any"}),
        ({"is_parallel": False}, {"type": "auto", "disable_parallel_tool_use": True}),
    ],
)
def test_functions_are_passed_on(how: dict[str, bool], choice: dict[str, Any]) -> None:
    body = body_of(turn_options=offering(**how))
    assert body["tools"] == [{"name": "f", "description": "d", "input_schema": SCHEMA}]
    assert body["tool_choice"] == choice


def test_an_answer_in_a_form_is_a_call_beside_them() -> None:
    options = offering().model_copy(update={"answer_form": AnswerForm()})
    body = body_of(turn_options=options)
    assert [tool["name"] for tool in body["tools"]][1:] == ["f"]
    assert body["tool_choice"] == {"type": "any"}


def test_calls_and_results_go_with_them() -> None:
    answer = HistoryMessage(role="assistant", content=(CALL, CALL.model_copy(update={"id": "b"})))
    body = body_of(RESULT, history=(said("user", "go"), answer), turn_options=offering())
    assert body["messages"][1:] == [
        {
            "role": "assistant",
            "content": [
                {"type": "tool_use", "id": "call_1", "name": "f", "input": {"n": 1}},
                {"type": "tool_use", "id": "b", "name": "f", "input": {"n": 1}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "call_1",
                    "content": [{"type": "text", "text": "told"}],
                },
                {
                    "type": "tool_result",
                    "tool_use_id": "b",
                    "content": NO_RESULT,
                    "is_error": True,
                },
            ],
        },
    ]


def test_without_functions_they_are_text() -> None:
    """The Messages API takes them only beside tools."""
    answer = HistoryMessage(role="assistant", content=(CALL,))
    body = body_of(RESULT, history=(said("user", "go"), answer))
    told = [block["text"] for message in body["messages"] for block in message["content"]]
    assert told == ["go", '[Called f with {"n":1}]', "[Result of call_1]", "told"]


def called(*inputs: str, name: str = "f", **how: Any) -> list[ClientCall]:
    chunks = [SSE_START]
    for i, given in enumerate(inputs):
        block = {"type": "tool_use", "id": f"toolu_{i}", "name": name, "input": {}}
        chunks.append(sse({"type": "content_block_start", "index": i, "content_block": block}))
        for piece in (given[:3], given[3:]):
            delta = {"type": "input_json_delta", "partial_json": piece}
            chunks.append(sse({"type": "content_block_delta", "index": i, "delta": delta}))
        chunks.append(sse({"type": "content_block_stop", "index": i}))
    _, stream = read(*chunks, SSE_END)
    return client_calls(stream.calls, ClientTools(tools=(TOOL,), **how))


def test_the_models_calls_become_the_clients() -> None:
    assert called('{"n": 1}', "{}") == [
        ClientCall(id="call_0", name="f", arguments='{"n":1}'),
        ClientCall(id="call_1", name="f", arguments="{}"),
    ]


def test_only_one_where_one_was_asked_for() -> None:
    (call,) = called('{"n": 1}', "{}", is_parallel=False, is_legacy=True)
    assert call.is_legacy


def test_what_no_client_could_run_is_left_out() -> None:
    assert called('{"n": ', "[1]", "") == [ClientCall(id="call_2", name="f", arguments="{}")]
    assert called("{}", name="give_answer") == []


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
def test_a_number_that_is_no_json_reaches_no_client(number: str) -> None:
    assert called(f'{{"a":[{number}]}}', '{"a":1e9}') == [
        ClientCall(id="call_1", name="f", arguments='{"a":1000000000.0}')
    ]
