"""The demo for people who simply talk to the scripted model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from infra.profiles.read import read_folder
from infra.scripted_model.asked import Asked
from infra.scripted_model.demo import questions
from infra.scripted_model.demo.showcase import AGENTS, SUGGESTIONS, TOPICS, showcase
from infra.scripted_model.demo.sub_agents import TASK
from infra.scripted_model.demo.welcome import FILE
from infra.scripted_model.replies import Reply, Stop, Text, Thinking, ToolUse
from infra.scripted_model.samples import FORM_TOOL
from infra.scripted_model.script import answer

ROOT = Path(__file__).resolve().parents[3]
TOOLS = [{"name": name} for name in ("Bash", "Read", "Write", "Edit", "Grep", "Agent")]
Messages = Sequence[Mapping[str, Any]]


def ask(
    messages: Messages, *, tools: list[dict[str, Any]] | None = None, system: str = ""
) -> Reply:
    body = {"messages": messages, "tools": TOOLS if tools is None else tools, "system": system}
    given = answer(Asked(body, {}, lambda: 1), otherwise=showcase)
    assert isinstance(given, Reply)
    return given


def user(said: str) -> dict[str, Any]:
    return {"role": "user", "content": said}


def assistant(reply: Reply | str) -> dict[str, Any]:
    if isinstance(reply, str):
        return {"role": "assistant", "content": reply}
    used = [{"type": "tool_use", "name": c.name, "input": dict(c.input)} for c in calls(reply)]
    return {"role": "assistant", "content": [{"type": "text", "text": text(reply)}, *used]}


def result(told: str, *, is_error: bool = False) -> dict[str, Any]:
    found = {"type": "tool_result", "content": told, "is_error": is_error}
    return {"role": "user", "content": [found]}


def calls(reply: Reply) -> list[ToolUse]:
    return [block for block in reply.blocks if isinstance(block, ToolUse)]


def text(reply: Reply) -> str:
    return "".join("".join(b.pieces) for b in reply.blocks if isinstance(b, Text))


def talk(prompt: str, *told: str | Exception, before: Messages = (), **how: Any) -> list[Reply]:
    """What the model says to a prompt, when its tools tell this; an exception: they failed."""
    messages = [*before, user(prompt)]
    said = [ask(messages, **how)]
    for one in told:
        is_error = isinstance(one, Exception)
        messages += [assistant(said[-1]), result(str(one), is_error=is_error)]
        said.append(ask(messages, **how))
    return said


def test_the_tour_thinks_looks_around_writes_a_file_and_ends() -> None:
    first, second, third = talk("Hello then, who are you?", "Linux", "written")
    assert isinstance(first.blocks[0], Thinking)
    assert "scripted demo model" in text(first)
    assert "Hello then, who are you?" in text(first)
    assert [call.name for call in calls(first)] == ["Bash"]
    assert first.pace_s > 0
    assert calls(second)[0].input["file_path"] == FILE
    assert third.stop is Stop.END_TURN
    assert FILE in text(third)
    assert "Try next" in text(third)
    assert calls(third) == []


def test_a_failed_tool_is_not_called_a_success() -> None:
    assert "did not succeed" in text(talk("hi", "Linux", OSError("denied"))[-1])
    assert "did not work" in text(talk("read gone.md", OSError("no such file"))[-1])
    assert "failed" in text(talk("run false", OSError("exit code 1"))[-1])


def test_it_writes_the_file_that_one_asks_for_also_over_an_old_one() -> None:
    [call] = calls(talk("write a file called notes/a.md with the text “buy milk”")[0])
    assert call.input == {"file_path": "/workspace/notes/a.md", "content": "buy milk\n"}
    again = talk("write a.md: it's $HOME", OSError("has not been read"))[-1]
    assert calls(again)[0].input["command"].startswith("printf '%s\\n' 'it'\"'\"'s $HOME' >")


def test_it_shows_what_a_tool_told_without_line_numbers() -> None:
    assert "```\nbuy milk\nand bread\n```" in text(
        talk("what is in a.md?", "     1→buy milk\n     2→and bread")[-1]
    )
    assert "```\n42\n```" in text(talk("run echo 42", "42")[-1])


def test_it_remembers_what_was_said_in_this_conversation() -> None:
    before = [
        user("remember that it rains"),
        assistant("Yes."),
        user("My name is Ada."),
        assistant(""),
    ]
    told = text(talk("What do you remember?", before=before)[0])
    assert "- it rains" in told
    assert "- My name is Ada" in told
    assert "not told me" in text(talk("what do you remember?")[0])


def test_it_asks_back_and_does_what_is_answered() -> None:
    tools = [*TOOLS, {"name": "AskUserQuestion"}]
    asked, plot = talk("ask me a question", "The user answered: the first", tools=tools)
    assert calls(asked)[0].input["questions"][0]["question"] == questions.QUESTION
    assert "plot" in calls(plot)[0].input["file_path"]
    page = talk("ask me a question", "The user answered: 2", tools=tools)[-1]
    assert calls(page)[0].input["file_path"].endswith(".html")
    neither = talk("ask me a question", "The user answered: soup", tools=tools)[-1]
    assert "soup" in text(neither)


def test_without_the_tool_for_questions_it_asks_in_words() -> None:
    asked = ask([user("ask me a question")])
    assert calls(asked) == []
    before = [user("ask me a question"), assistant(asked)]
    assert "plot" in calls(talk("the first", before=before)[0])[0].input["file_path"]


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        ("plot 3, 1 and 4", "VALUES = [3.0, 1.0, 4.0]"),
        ("plot x^2 - 3*x", "FORMULA = 'x**2 - 3*x'"),
        ("make a plot", "FORMULA = 'sin(x)'"),
        ("draw me a chart of our sales!", "FORMULA = 'sin(x)'"),
    ],
)
def test_it_plots_numbers_and_formulas(prompt: str, found: str) -> None:
    program = calls(talk(prompt)[0])[0].input["content"]
    assert found in program
    compile(program, "plot.py", "exec")


def test_words_that_it_does_not_understand_are_answered_with_those_that_it_does() -> None:
    told = text(talk("Is it raining?", before=[user("hello"), assistant("Hello!")])[0])
    assert "Is it raining?" in told
    assert all(one.examples[0] in told for one in TOPICS)


def test_it_suggests_what_was_not_tried_yet() -> None:
    told = text(talk("what do you remember?", before=[user("Hello!"), assistant("ok")])[0])
    assert told.endswith("“write notes.md: buy milk”, “plot x**2 - 3*x”, “ask me a question”")
    before = [message for said in SUGGESTIONS for message in (user(said), assistant("ok"))]
    assert text(talk("hello", before=before)[0]).count("Try next") == 0, "the tour works first"
    assert text(talk("my name is Ada", before=before)[0]).endswith("“help”")
    assert set(SUGGESTIONS) <= {example for one in TOPICS for example in one.examples}


def test_an_agent_without_the_tool_is_told_from_one_that_failed() -> None:
    assert "`Bash`" in text(talk("run id", tools=[{"name": "Read"}])[0])


@pytest.mark.parametrize("example", [e for one in TOPICS for e in one.examples])
def test_each_example_is_understood_by_its_topic(example: str) -> None:
    found = [one for one in TOPICS if one.found_in(example)]
    assert example in found[0].examples


@pytest.mark.parametrize("politely", ["Please {}", "Can you {}, please?", "{}!"])
def test_politeness_changes_nothing(politely: str) -> None:
    assert "plot" in calls(talk(politely.format("make a plot"))[0])[0].input["file_path"]


@pytest.mark.parametrize("agent", AGENTS, ids=lambda agent: agent.name)
def test_a_shipped_agent_shows_its_own_work(agent: Any) -> None:
    profile = read_folder(ROOT / "infra" / "agents")[agent.name]
    assert profile.system_prompt is not None
    system = profile.system_prompt.text
    assert [one.name for one in AGENTS if one.role in system] == [agent.name]
    first = ask([user(agent.words[0])], system=system)
    assert calls(first), "its first step is work"
    offered = set(profile.tools or ())
    assert {"Agent" if "Task" in offered else "", *offered} >= {c.name for c in calls(first)}


def test_every_shipped_agent_has_a_demo() -> None:
    assert set(read_folder(ROOT / "infra" / "agents")) == {agent.name for agent in AGENTS}


def test_the_data_analyst_says_what_it_lacks_and_what_it_cannot_read() -> None:
    how: dict[str, Any] = {"system": "You are a data analyst"}
    lacking = talk("Look at it", "no Python here has pandas\nours.csv", **how)[-1]
    assert "No Python here has pandas" in text(lacking)
    assert "(ours.csv), but the demo" in text(lacking)
    found = text(talk("Look at it", "/opt/analyst/bin/python3", **how)[-1])
    assert found == "`/opt/analyst/bin/python3` has pandas. I take a table of a shop's sales."


def test_a_sub_agent_does_its_task_and_suggests_nothing() -> None:
    first, second = talk(TASK + "count the files", "3")
    assert [call.name for call in calls(first)] == ["Bash"]
    assert text(second) == "There are 3 files in the workspace."


def test_a_sub_agents_report_is_told_without_what_the_cli_writes_around_it() -> None:
    handed = (
        "<x>Bash</x>\n\n[Subagent hand-back] … The report follows:\n  Two files.\n  One is new.\n"
        "agentId: a2f4\n<usage>subagent_tokens: 7</usage>"
    )
    told = text(talk("use a sub-agent", handed)[-1])
    assert told.startswith("The sub-agent reports:\n\n> Two files.\nOne is new.\n\n**Try")


def test_without_tools_it_answers_in_words() -> None:
    reply = ask([user("Write a title for this chat")], tools=[])
    assert calls(reply) == []
    assert reply.stop is Stop.END_TURN
    assert text(reply)


def test_scripts_work_in_a_demo_too() -> None:
    assert text(ask([user("echo hi")])) == "hi"


def test_words_that_only_begin_like_a_script_get_the_tour() -> None:
    for prompt in ("count me in", "think about life", "history of Rome", "model a house"):
        assert "scripted demo model" in text(ask([user(prompt)]))


def test_the_tour_ends_with_the_object_that_is_asked_for() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    tools = [*TOOLS, {"name": FORM_TOOL, "input_schema": schema}]
    first, _, last = talk("Hello there, and give me JSON", "Linux", "written", tools=tools)
    assert [call.name for call in calls(first)] == ["Bash"]
    assert calls(last) == [ToolUse(FORM_TOOL, {"a": 0})]
