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


def open_in(
    entries: list[dict[str, Any]], later: list[dict[str, Any]] | None = None
) -> UnfinishedAnswer | None:
    return unfinished(entries, id="end", later=later or [], own={"Bash"})


def entry(kind: str, content: Any, *, id: str = "m", uuid: str = "u") -> dict[str, Any]:
    return {"type": kind, "uuid": uuid, "message": {"id": id, "content": content}}


ASKED = entry("user", [TEXT], uuid="asked")


def test_an_answer_with_a_call_without_a_result_is_unfinished() -> None:
    entries = [ASKED, entry("assistant", [TEXT]), entry("assistant", [call("toolu_a")])]
    assert open_in(entries) == UnfinishedAnswer("asked", "end", [TEXT, call("toolu_a")], [])


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
    assert open_in(entries) == UnfinishedAnswer(
        "before", "end", [call("toolu_own"), call("toolu_a")], own
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
    assert open_in([ASKED, *after]) is None


def test_an_answer_that_begins_a_session_has_nothing_before_it() -> None:
    assert open_in([entry("assistant", [call("toolu_a")])]) == UnfinishedAnswer(
        None, "end", [call("toolu_a")], []
    )


def test_results_of_the_clis_own_tools_may_stand_behind_it() -> None:
    """After an answer was told again, they come together with the client's results."""
    own = {"type": "tool_use", "id": "toolu_own", "name": "Bash", "input": {}}
    answer = entry("assistant", [own, call("toolu_a")])
    later = [entry("user", [result("toolu_own"), result("toolu_a")])]
    assert open_in([ASKED, answer], later) == UnfinishedAnswer(
        "asked", "end", [own, call("toolu_a")], [result("toolu_own")]
    )
