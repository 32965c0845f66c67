"""Calls and results in OpenAI's messages: what the agent gets of them, and what is a prompt."""

from __future__ import annotations

import json
from typing import Any

import pytest

from api.chat.messages.prompt import read_messages
from api.chat.request import read_chat_request
from api.turns.ask import Prompt
from api.turns.chain import AnswerHead, head_of, last_chains
from infra.wire.errors import RequestRefused
from infra.wire.events import ClientCall
from infra.wire.history.answers import ToldHeads, shown_head
from infra.wire.history.decision import Accepted, Continue, decide
from infra.wire.ids import TurnId
from infra.wire.turns import CallBlock, ImageBlock, ResultBlock, TextBlock

USER = {"role": "user", "content": "go"}
PNG = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}


def calling(*ids: str, content: Any = None, **function: Any) -> dict[str, Any]:
    called = {"name": "f", "arguments": '{"n":1}', **function}
    calls = [{"id": id, "type": "function", "function": called} for id in ids]
    return {"role": "assistant", "content": content, "tool_calls": calls}


def result(id: str, content: Any = "told") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id, "content": content}


def read(*messages: dict[str, Any], has_tools: bool = True) -> Prompt:
    body = json.dumps({"model": "m", "messages": messages}).encode()
    return read_messages(read_chat_request(body).messages, has_tools=has_tools)


def param_of(*messages: dict[str, Any]) -> str | None:
    with pytest.raises(RequestRefused) as error:
        read(*messages)
    return error.value.param


def test_results_are_a_prompt_of_their_own() -> None:
    told = read(USER, calling("call_1", "call_2"), result("call_1"), result("call_2"))
    assert told.prompt == (
        ResultBlock(call="call_1", content=(TextBlock(text="told"),)),
        ResultBlock(call="call_2", content=(TextBlock(text="told"),)),
    )
    assert told.history[-1].content == (
        CallBlock(id="call_1", name="f", arguments='{"n":1}'),
        CallBlock(id="call_2", name="f", arguments='{"n":1}'),
    )
    assert len(told.sent) == 2


def test_words_may_follow_the_results() -> None:
    told = read(USER, calling("call_1"), result("call_1"), {"role": "user", "content": "and"})
    assert [block.type for block in told.prompt] == ["result", "text"]


def test_a_result_is_known_by_its_call_and_its_content() -> None:
    one = read(USER, calling("call_1"), result("call_1"))
    assert one.sent == read(USER, calling("call_1"), result("call_1")).sent
    assert one.sent[1] != read(USER, calling("call_1"), result("call_1", "else")).sent[1]
    assert one.sent[1] != read(USER, calling("call_2"), result("call_2")).sent[1]


def test_a_picture_in_a_result_and_what_no_result_can_hold() -> None:
    pdf = {"type": "file", "file": {"file_data": "data:application/pdf;base64,aGk="}}
    told = read(USER, calling("call_1"), result("call_1", [PNG, pdf]))
    picture = ImageBlock(media_type="image/png", data="aGk=")
    assert told.prompt[0] == ResultBlock(call="call_1", content=(picture,))
    assert [block.type for block in told.prompt] == ["result", "document"]


def test_a_client_that_sends_only_the_results() -> None:
    told = read(result("call_1"))
    assert told.prompt == (ResultBlock(call="call_1", content=(TextBlock(text="told"),)),)
    assert not told.has_answers


def test_the_older_form_has_no_ids() -> None:
    called = {"role": "assistant", "content": None, "function_call": {"name": "f"}}
    told = read(USER, called, {"role": "function", "name": "f", "content": "told"})
    assert told.history[-1].content == (CallBlock(name="f", arguments="{}"),)
    assert told.prompt == (ResultBlock(name="f", content=(TextBlock(text="told"),)),)


def test_a_missing_result_is_no_error() -> None:
    assert len(read(USER, calling("call_1", "call_2"), result("call_2")).prompt) == 1
    assert read(USER, calling("call_1"), USER).prompt == (TextBlock(text="go"),)


def test_calls_at_the_end_need_results() -> None:
    assert param_of(USER, calling("call_1")) == "messages[1].tool_calls"


def test_a_result_of_no_call_is_refused_in_the_newest_messages_only() -> None:
    assert param_of(USER, calling("call_1"), result("call_x")) == "messages[2].tool_call_id"
    told = read(USER, calling("call_1"), result("call_x"), {"role": "assistant"}, USER)
    assert told.prompt == (TextBlock(text="go"),)


@pytest.mark.parametrize(
    "call",
    [
        calling("call_1", arguments="no json"),
        calling("call_1", arguments="[1]"),
        calling("call_1", arguments='{"a":' + "[" * 600 + "]" * 600 + "}"),
        calling("call_1", arguments='{"a":' + "[" * 100_000 + "]" * 100_000 + "}"),
        calling("call_1", arguments='{"a":"' + '\\"' * 100_000),
        calling("call_1", name="has blanks"),
        calling("call 1"),
        {"role": "assistant", "tool_calls": [{"id": "call_1", "custom": {"name": "f"}}]},
    ],
)
def test_a_call_that_no_model_would_take_back_is_text(call: dict[str, Any]) -> None:
    (block,) = read(USER, call, USER).history[-1].content
    assert isinstance(block, TextBlock)
    assert block.text.startswith("[Called ")


FILES = [
    json.dumps([{"n": [n], "s": '"]}\\'} for n in range(1000)]),
    'int main(void) { char *s = "\\"{"; return s[0]; }\n' * 1000,
    "{" * 1000,
]


@pytest.mark.parametrize(
    "arguments",
    [*(json.dumps({"content": file}) for file in FILES), json.dumps({"rows": [[1]] * 1000})],
)
def test_a_call_that_holds_a_whole_file_is_gone_on_from(arguments: str) -> None:
    """Its brackets are many, but not nested."""
    heads = ToldHeads()
    heads.add(ClientCall(id="call_1", name="f", arguments=arguments))
    told = read(USER, calling("call_1", arguments=arguments), result("call_1"))
    assert told.history[-1].content == (CallBlock(id="call_1", name="f", arguments=arguments),)
    known = [Accepted(digest=told.sent[0], turn=TurnId("turn_1"), heads=heads.heads)]
    answers = [shown_head(answer) for answer in told.answers]
    base = decide(known, told.sent, is_thin=False, resends=True, answers=answers)
    assert base == Continue()


def test_all_of_it_is_text_for_an_agent_without_the_clients_functions() -> None:
    told = read(USER, calling("call_1"), result("call_1"), has_tools=False)
    assert told.history[-1].content == (TextBlock(text='[Called f with {"n":1}]'),)
    assert told.prompt == (TextBlock(text="[Result of call_1]"), TextBlock(text="told"))


def test_answers_that_end_with_calls_are_told_apart_by_them() -> None:
    """Programs often call the same function first, without a word."""
    one, other = (
        read(USER, calling(id, content="hm"), result(id), {"role": "assistant"}, USER)
        for id in ("call_1", "call_2")
    )
    assert one.answers == ("hm", "")
    assert one.closings == ("call_1", "")
    chains = [last_chains(None, ("a", "b"), (told.closings[0],)) for told in (one, other)]
    assert chains[0] != chains[1]


def test_the_head_of_a_relayed_answer_is_the_one_that_comes_back() -> None:
    head = AnswerHead()
    head.add("hm")
    head.add_call("call_1")
    head.add_call("call_2")
    told = read(USER, calling("call_1", "call_2", content="hm"), result("call_1"))
    assert head.text == head_of(told.closings[0])
