"""What is open at the end of a session."""

from __future__ import annotations

from typing import Any

import pytest

from agent.memory.calls import UnfinishedAnswer, unfinished

TEXT = {"type": "text", "text": "and then"}


def result(id: str) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": id, "content": "told"}


def call(id: str) -> dict[str, Any]:
    return {"type": "tool_use", "id": id, "name": "one", "input": {}}


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
