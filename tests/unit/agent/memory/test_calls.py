"""Each call gets one result, whatever the client sent."""

from __future__ import annotations

from typing import Any

import pytest

from agent.memory.calls import NO_RESULT, OpenCall, UnfinishedAnswer, paired, unfinished
from agent.memory.history import Said

A, B = OpenCall("toolu_a", "one"), OpenCall("toolu_b", "two")
TEXT = {"type": "text", "text": "and then"}
MISSING = {"type": "tool_result", "content": NO_RESULT, "is_error": True}


def result(id: str, content: Any = "told", **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": id, "content": content, **more}


def call(id: str, name: str = "one") -> dict[str, Any]:
    return {"type": "tool_use", "id": id, "name": name, "input": {}}


def said_to(*calls: OpenCall, content: list[dict[str, Any]]) -> list[dict[str, Any]]:
    (message,) = paired([Said("user", content)], calls)
    return message.content


def test_results_come_first_and_in_the_order_of_the_calls() -> None:
    content = [TEXT, result("call_b"), result("call_a")]
    assert said_to(A, B, content=content) == [result("toolu_a"), result("toolu_b"), TEXT]


def test_a_missing_result_is_said_to_be_missing() -> None:
    told = said_to(A, B, content=[result("call_b"), TEXT])
    assert told == [MISSING | {"tool_use_id": "toolu_a"}, result("toolu_b"), TEXT]


def test_a_message_instead_of_results() -> None:
    assert said_to(A, content=[TEXT]) == [MISSING | {"tool_use_id": "toolu_a"}, TEXT]


def test_a_result_that_nobody_waits_for_becomes_text() -> None:
    content = [result("call_x", [TEXT]), result("call_x", "again", name="two")]
    lines = [block["text"] for block in said_to(content=content)]
    assert lines == ["[Result of call_x]", "and then", "[Result of two]", "again"]


def test_a_second_result_for_one_call_becomes_text() -> None:
    told = said_to(A, content=[result("call_a"), result("call_a")])
    assert [block["type"] for block in told] == ["tool_result", "text", "text"]


def test_a_result_without_an_id_belongs_to_the_function_that_it_names() -> None:
    content = [result("", "2", name="two"), result("", "1", name="one")]
    told = said_to(A, B, content=content)
    assert told == [result("toolu_a", "1"), result("toolu_b", "2")]


def test_an_empty_result_says_so() -> None:
    assert said_to(A, content=[result("call_a", [])]) == [result("toolu_a", "(no output)")]


def test_calls_in_a_history_get_their_results_and_ids() -> None:
    said = [
        Said("user", [TEXT]),
        Said("assistant", [call("", "one"), call("call_2", "two")]),
        Said("user", [result("", name="one")]),
        Said("assistant", [TEXT]),
    ]
    _, answer, results, _ = paired(said)
    id = answer.content[0]["id"]
    assert id
    assert results.content == [result(id), MISSING | {"tool_use_id": "call_2"}]


# What is open at the end of a session


def entry(kind: str, content: Any, *, id: str = "m", uuid: str = "u") -> dict[str, Any]:
    return {"type": kind, "uuid": uuid, "message": {"id": id, "content": content}}


ASKED = entry("user", [TEXT], uuid="asked")


def test_an_answer_with_a_call_without_a_result_is_unfinished() -> None:
    entries = [ASKED, entry("assistant", [TEXT]), entry("assistant", [call("toolu_a")])]
    assert unfinished(entries) == UnfinishedAnswer("asked", [TEXT, call("toolu_a")], [])


def test_results_of_its_other_calls_belong_to_it() -> None:
    own = [result("toolu_own")]
    entries = [
        ASKED,
        entry("assistant", [call("toolu_before")], id="m0"),
        entry("user", [result("toolu_before")], uuid="before"),
        entry("assistant", [call("toolu_own")]),
        entry("user", own),
        entry("assistant", [call("toolu_a")]),
    ]
    assert unfinished(entries) == UnfinishedAnswer(
        "before", [call("toolu_own"), call("toolu_a")], own
    )


@pytest.mark.parametrize(
    "after",
    [
        [],
        [entry("assistant", "words")],
        [entry("assistant", [call("toolu_a")]), entry("user", [result("toolu_a")])],
        [entry("assistant", [call("toolu_a")]), entry("user", [TEXT])],
        [{"type": "assistant", "message": "odd"}],
    ],
)
def test_nothing_is_open(after: list[dict[str, Any]]) -> None:
    assert unfinished([ASKED, *after]) is None


def test_an_answer_that_begins_a_session_has_nothing_before_it() -> None:
    assert unfinished([entry("assistant", [call("toolu_a")])]) == UnfinishedAnswer(
        None, [call("toolu_a")], []
    )
