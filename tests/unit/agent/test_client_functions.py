"""What a client's functions are called here, and what becomes of the model's calls."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent.cli.offers import CallReply, OfferedCall
from agent.client_functions import ARGUMENTS_MAX_BYTES, WRONG_MAX, ClientFunctions
from infra.wire.events import ClientCall, check_event, encode_event
from infra.wire.options import ClientTool, ClientTools
from infra.wire.turns import CallBlock, HistoryMessage

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
OWN = frozenset({"Bash", "Read"})


def functions(*names: str, schema: Any = SCHEMA, **how: Any) -> ClientFunctions:
    tools = tuple(ClientTool(name=name, parameters=json.dumps(schema)) for name in names)
    return ClientFunctions(ClientTools(tools=tools, **how), taken=OWN)


def judged(of: ClientFunctions, given: Any, *, id: str = "toolu_1") -> CallReply | None:
    offer = of.offers[0]
    return offer.judge(OfferedCall(id, offer.name, given))


def test_names_that_are_taken_are_replaced_and_told_as_the_clients() -> None:
    of = functions("Read", "client_Read", "go")
    assert [offer.name for offer in of.offers] == ["client2_Read", "client_Read", "go"]
    (told,) = of.told([OfferedCall("toolu_1", "client2_Read", {"n": 1})])
    assert told == ClientCall(id="call_1", name="Read", arguments='{"n":1}')


def test_no_name_looks_like_that_of_a_tool_server() -> None:
    assert [offer.name for offer in functions("mcp__a__b").offers] == ["client_mcp__a__b"]


def test_a_long_name_that_is_taken_stays_short_enough() -> None:
    name = "x" * 64
    of = ClientFunctions(ClientTools(tools=(ClientTool(name=name),)), taken={name})
    assert len(of.offers[0].name) == 64


def test_the_history_says_the_names_that_the_model_knows() -> None:
    block = CallBlock(id="call_1", name="Read", arguments="{}")
    history = (HistoryMessage(role="assistant", content=(block,)),)
    ((known,),) = (message.content for message in functions("Read").known_as(history))
    assert known == block.model_copy(update={"name": "client_Read"})
    assert functions("go").known_as(history) == history


def test_a_good_call_stays_open_and_a_wrong_one_is_explained() -> None:
    of = functions("go")
    assert judged(of, {"n": 1}) is None
    reply = judged(of, {"n": "one"})
    assert reply is not None
    assert reply.is_error
    assert not reply.ends_turn
    assert "'one' is not of type 'integer'" in reply.text


def test_too_many_wrong_calls_end_the_turn() -> None:
    of = functions("go")
    replies = [judged(of, {}) for _ in range(WRONG_MAX)]
    assert [reply.ends_turn for reply in replies if reply] == [False] * 4 + [True]
    assert [reply.is_error for reply in replies if reply] == [True] * 4 + [False]
    assert of.is_given_up


def test_one_call_at_a_time() -> None:
    of = functions("go", is_parallel=False)
    assert judged(of, {"n": 1}) is None
    reply = judged(of, {"n": 2})
    assert reply is not None
    assert "One call at a time" in reply.text


def test_the_largest_call_is_an_event_that_passes_the_check() -> None:
    schema = {"type": "object"}
    of = functions("go", schema=schema)
    fits = {"a": '"' * (ARGUMENTS_MAX_BYTES // 2 - 8)}
    assert judged(of, fits) is None
    (told,) = of.told([OfferedCall("toolu_1", "go", fits)])
    assert check_event(encode_event(told)) == told
    reply = judged(of, {"a": "x" * ARGUMENTS_MAX_BYTES})
    assert reply is not None
    assert "larger than 256 KiB" in reply.text


@pytest.mark.parametrize("id", ["toolu_01AbC", "call_1", "chatcmpl-tool-9", "x y\n", "a" * 300])
def test_any_id_of_a_call_becomes_one_that_passes_the_check(id: str) -> None:
    (told,) = functions("go").told([OfferedCall(id, "go", {})])
    assert check_event(encode_event(told)) == told


def test_only_a_turn_that_needs_a_call_says_so_to_the_model() -> None:
    assert functions("go").wish is None
    wish = functions("a", "b", is_required=True).wish
    assert wish is not None
    assert "one of `a`, `b`" in wish
