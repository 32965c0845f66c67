"""What the CLI does when the model's stream breaks, and what a reader sees of it.

`agent.translate.translator` stands on this behaviour: a CLI that changes it fails here.
Learnt of 2.1.330.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent.translate.voice import RULE
from infra.wire.errors import ErrorCode
from infra.wire.events import ThinkingDelta, ToolCall, ToolResult
from infra.wire.states import TurnState
from tests.fakes.link_client import end_of, text_of
from tests.fakes.local_agent import LocalAgent, ask

pytestmark = [pytest.mark.sdk, pytest.mark.timeout(120)]

TOOLS = ("Bash",)
DROP, ERROR, UNSAID = "drop", "error", "unsaid"


def message(*say: Any, **more: Any) -> dict[str, Any]:
    return {"say": list(say), **more}


def script(*steps: dict[str, Any] | list[dict[str, Any]]) -> str:
    """Messages one after the other; a list is a message for each attempt of one."""
    return " then ".join("message " + json.dumps(step) for step in steps)


def cut(kind: str, **where: int) -> dict[str, Any]:
    return {"kind": kind, "status": 529, **where}


async def answer(local: LocalAgent, *steps: dict[str, Any] | list[dict[str, Any]]) -> str:
    events = await ask(local, script(*steps), tools=TOOLS)
    assert end_of(events).state is TurnState.DONE
    return text_of(events)


@pytest.mark.parametrize("kind", [DROP, ERROR])
async def test_a_finished_block_stays_and_the_next_message_goes_on(
    local: LocalAgent, kind: str
) -> None:
    first = message(["one ", "two "], ["three "], cut=cut(kind, blocks=1))
    assert await answer(local, first, message(["three ", "four"])) == "one two three four"


async def test_a_finished_block_is_remembered_and_nothing_beyond_it(local: LocalAgent) -> None:
    first = message(["kept "], ["lost ", "x"], cut=cut(ERROR, after=2))
    events = await ask(local, script(first, message("end")))
    assert text_of(events) == "kept lost " + RULE + "end"
    told = text_of(await ask(local, "assistants"))
    assert "kept " in told
    assert "lost" not in told


async def test_what_was_begun_beyond_the_last_finished_block_is_said_once(
    local: LocalAgent,
) -> None:
    first = message(["one "], ["two ", "three "], cut=cut(ERROR, after=2))
    assert await answer(local, first, message(["two ", "three"])) == "one two three"


async def test_without_a_finished_block_the_message_begins_again(local: LocalAgent) -> None:
    first = message(["one ", "two "], cut=cut(ERROR, after=1))
    assert await answer(local, [first, message("one two three")]) == "one two three"


async def test_thinking_alone_is_not_kept(local: LocalAgent) -> None:
    first = message({"thinking": "so it is"}, "one", cut=cut(ERROR, blocks=1))
    second = message({"thinking": "so it is"}, "two")
    events = await ask(local, script([first, second]), tools=TOOLS)
    assert "".join(e.text for e in events if isinstance(e, ThinkingDelta)) == "so it is"
    assert text_of(events) == "two"


@pytest.mark.parametrize("kind", [DROP, ERROR, UNSAID])
async def test_a_finished_tool_call_runs_and_ends_the_message(local: LocalAgent, kind: str) -> None:
    """The same words after it are new ones: the model remembers both."""
    checking = message("Checking.", {"tool": "bash echo a"}, cut=cut(kind, blocks=2))
    again = message("Checking.", {"tool": "bash echo b"})
    events = await ask(local, script(checking, again, message("Done.")), tools=TOOLS)
    assert text_of(events) == "Checking.\n\nChecking.\n\nDone."
    assert [e.summary for e in events if isinstance(e, ToolCall)] == ["echo a", "echo b"]
    assert not any(e.is_error for e in events if isinstance(e, ToolResult))


async def test_an_end_without_a_reason_is_no_break(local: LocalAgent) -> None:
    assert await answer(local, message("one two", cut=cut(UNSAID, blocks=1))) == "one two"


async def test_an_answer_that_breaks_again_and_again_ends_with_an_error(local: LocalAgent) -> None:
    """The model is asked to go on three times."""
    steps = [message([f"{n} "], ["x"], cut=cut(ERROR, blocks=1)) for n in range(6)]
    events = await ask(local, script(*steps))
    assert text_of(events) == "0 1 2 3 "
    error = end_of(events).error
    assert error is not None
    assert error.code is ErrorCode.UPSTREAM_ERROR


@pytest.mark.parametrize("stop", ["max_tokens", "model_context_window_exceeded"])
async def test_an_answer_that_was_cut_goes_on_in_mid_word(local: LocalAgent, stop: str) -> None:
    assert await answer(local, message("a wo", stop=stop), message("rd")) == "a word"


async def test_a_text_after_a_tool_is_a_paragraph_though_the_message_was_cut(
    local: LocalAgent,
) -> None:
    writing = message("I write.", {"tool": "bash echo a"}, stop="max_tokens")
    assert await answer(local, writing, message("All done.")) == "I write.\n\nAll done."


async def test_blocks_are_one_text_unless_something_stands_between(local: LocalAgent) -> None:
    server_tool = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}}
    found = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []}
    said = message("The sky", " is blue.", {"raw": server_tool}, {"raw": found}, "So it is.")
    assert await answer(local, said) == "The sky is blue.\n\nSo it is."
    said = message("One.", {"thinking": "hm"}, "Two.")
    assert await answer(local, said) == "One.\n\nTwo."


async def test_text_in_the_start_of_a_block_is_told_once(local: LocalAgent) -> None:
    said = message({"start": "Well, ", "text": ["hello ", "you"]})
    assert await answer(local, said) == "Well, hello you"


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (["ok ", "\ud83d", "\ude00", " end"], "ok \U0001f600 end"),
        (["ok ", "\ud83d", " end"], "ok \ufffd end"),
        (["ok ", "\ude00 end"], "ok \ufffd end"),
        (["ok ", "\ud83d"], "ok \ufffd"),
    ],
)
async def test_half_a_character_is_joined_or_marked_and_each_word_is_said_once(
    local: LocalAgent, pieces: list[str], text: str
) -> None:
    assert await answer(local, message(pieces)) == text
    assert text_of(await ask(local, "echo next")) == "next"
