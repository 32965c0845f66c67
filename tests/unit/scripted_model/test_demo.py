"""The tour for people who simply talk to the demo."""

from __future__ import annotations

from typing import Any

from infra.scripted_model.demo import FILE, showcase
from infra.scripted_model.replies import Reply, Stop, Text, Thinking, ToolUse
from infra.scripted_model.samples import FORM_TOOL
from infra.scripted_model.script import Asked, answer

TOOLS = [{"name": "Bash"}, {"name": "Write"}]


def ask(*messages: dict[str, Any], tools: list[dict[str, str]] | None = None) -> Reply:
    body = {"messages": list(messages), "tools": TOOLS if tools is None else tools}
    given = answer(Asked(body, {}, lambda: 1), otherwise=showcase)
    assert isinstance(given, Reply)
    return given


def user(said: str) -> dict[str, Any]:
    return {"role": "user", "content": said}


def result(told: str, *, is_error: bool = False) -> list[dict[str, Any]]:
    found = {"type": "tool_result", "content": told, "is_error": is_error}
    return [{"role": "assistant", "content": "…"}, {"role": "user", "content": [found]}]


def calls(reply: Reply) -> list[ToolUse]:
    return [block for block in reply.blocks if isinstance(block, ToolUse)]


def text(reply: Reply) -> str:
    return "".join("".join(b.pieces) for b in reply.blocks if isinstance(b, Text))


def test_the_tour_thinks_looks_around_writes_a_file_and_ends() -> None:
    told = [user("Hello then, who are you?")]
    first = ask(*told)
    assert isinstance(first.blocks[0], Thinking)
    assert "scripted demo model" in text(first)
    assert "Hello then, who are you?" in text(first)
    assert [call.name for call in calls(first)] == ["Bash"]
    assert first.pace_s > 0
    told += result("Linux")
    second = ask(*told)
    assert calls(second)[0].input["file_path"] == FILE
    told += result("written")
    third = ask(*told)
    assert third.stop is Stop.END_TURN
    assert FILE in text(third)
    assert calls(third) == []


def test_a_failed_tool_is_not_called_a_success() -> None:
    last = ask(user("hi"), *result("Linux"), *result("denied", is_error=True))
    assert "did not succeed" in text(last)


def test_a_later_turn_reads_the_file_back() -> None:
    told = [user("hi"), {"role": "assistant", "content": "done"}, user("and now?")]
    first = ask(*told)
    assert FILE in calls(first)[0].input["command"]
    assert "turn 2" in text(first)
    assert ask(*told, *result("# Hello")).stop is Stop.END_TURN


def test_without_tools_it_answers_in_words() -> None:
    reply = ask(user("Write a title for this chat"), tools=[])
    assert calls(reply) == []
    assert reply.stop is Stop.END_TURN
    assert text(reply)


def test_scripts_work_in_a_demo_too() -> None:
    assert text(ask(user("echo hi"))) == "hi"


def test_words_that_only_begin_like_a_script_get_the_tour() -> None:
    for prompt in ("count me in", "think about life", "history of Rome", "model a house"):
        assert "scripted demo model" in text(ask(user(prompt)))


def test_the_tour_ends_with_the_object_that_is_asked_for() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    tools: list[Any] = [*TOOLS, {"name": FORM_TOOL, "input_schema": schema}]
    told = [user("Hello there, and give me JSON")]
    assert [call.name for call in calls(ask(*told, tools=tools))] == ["Bash"]
    told += [*result("Linux"), *result("written")]
    assert calls(ask(*told, tools=tools)) == [ToolUse(FORM_TOOL, {"a": 0})]
