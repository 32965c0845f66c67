"""Each call gets one result, whatever the client sent."""

from __future__ import annotations

from typing import Any

from infra.wire.history.paired import NO_RESULT, OpenCall, Role, paired

A, B = OpenCall("toolu_a", "one"), OpenCall("toolu_b", "two")
TEXT = {"type": "text", "text": "and then"}
MISSING = {"type": "tool_result", "content": NO_RESULT, "is_error": True}


def result(id: str, content: Any = "told", **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": id, "content": content, **more}


def call(id: str, name: str = "one") -> dict[str, Any]:
    return {"type": "tool_use", "id": id, "name": name, "input": {}}


def said_to(*calls: OpenCall, content: list[dict[str, Any]]) -> list[dict[str, Any]]:
    ((_, told),) = paired([("user", content)], calls)
    return told


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
    said: list[tuple[Role, list[dict[str, Any]]]] = [
        ("user", [TEXT]),
        ("assistant", [call("", "one"), call("call_2", "two")]),
        ("user", [result("", name="one")]),
        ("assistant", [TEXT]),
    ]
    _, (_, answer), (_, results), _ = paired(said)
    id = answer[0]["id"]
    assert id
    assert results == [result(id), MISSING | {"tool_use_id": "call_2"}]
