"""Streams that break, messages that are cut, and texts with something between them.

The sequences are those of CLI 2.1.330, learnt in `tests/contract/agent/test_broken_streams.py`.
"""

from __future__ import annotations

from typing import Any

import pytest
from claude_agent_sdk import (
    AssistantMessage,
    ContentBlock,
    Message,
    ServerToolUseBlock,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    UserMessage,
)

from agent.translate.voice import RULE
from infra.wire.events import ThinkingDelta, ToolCall, ToolResult
from tests.fakes.link_client import text_of
from tests.unit.agent.recordings import stream_event, translate

NUDGE = UserMessage(content=[TextBlock("Your response above was cut off mid-stream. Resume …")])
RESULT = UserMessage(content=[ToolResultBlock("call", "ok", is_error=False)])

Block = tuple[str, list[str], bool]
"""Kind, deltas, and whether it is finished."""


def text(*pieces: str, finished: bool = True) -> Block:
    return "text", list(pieces), finished


def thinking(*pieces: str, finished: bool = True) -> Block:
    return "thinking", list(pieces), finished


CALL: Block = ("tool_use", [], True)
SERVER_TOOL: Block = ("server_tool_use", [], True)


def message(id: str, *blocks: Block, stop: str | None = None) -> list[Message]:
    """A streamed message; without `stop` it broke after its blocks."""
    sent = [_event("message_start", message={"id": id, "usage": {}})]
    for kind, pieces, is_finished in blocks:
        key = {"text": "text", "thinking": "thinking"}.get(kind, "partial_json")
        sent.append(_event("content_block_start", content_block={"type": kind, key: ""}))
        for piece in pieces:
            delta = {"type": f"{kind}_delta", key: piece}
            sent.append(_event("content_block_delta", delta=delta))
        if is_finished:
            sent.append(_finished(id, kind, "".join(pieces)))
        sent.append(_event("content_block_stop"))
    if stop:
        sent.append(_event("message_delta", delta={"stop_reason": stop}, usage={}))
    return [*sent, _event("message_stop")]


def whole(id: str, *blocks: Block) -> list[Message]:
    """A message that was not streamed."""
    return [_finished(id, kind, "".join(pieces)) for kind, pieces, _ in blocks]


def _event(type: str, **fields: Any) -> Message:
    return stream_event({"type": type, **fields})


def _finished(id: str, kind: str, said: str) -> Message:
    content: dict[str, ContentBlock] = {
        "text": TextBlock(said),
        "thinking": ThinkingBlock(said, "signature"),
        "tool_use": ToolUseBlock("call", "Bash", {"command": "ls"}),
        "server_tool_use": ServerToolUseBlock("search", "web_search", {"query": "x"}),
    }
    return AssistantMessage(content=[content[kind]], model="claude", message_id=id)


CASES = [
    pytest.param(
        [
            *message("m1", text("one ", "two ")),
            NUDGE,
            *message("m2", text("three"), stop="end_turn"),
        ],
        "one two three",
        id="a finished block is final",
    ),
    pytest.param(
        [
            *message("m1", text("one "), text("two ", "th", finished=False)),
            NUDGE,
            *message("m2", text("two ", "three"), stop="end_turn"),
        ],
        "one two three",
        id="what was begun beyond it is repeated",
    ),
    pytest.param(
        [
            *message("m1", text("one "), text("two ", finished=False)),
            NUDGE,
            *message("m2", text("other"), stop="end_turn"),
        ],
        "one two " + RULE + "other",
        id="what was begun beyond it is replaced, and nothing before",
    ),
    pytest.param(
        message("m1", text("one ", "two ", finished=False))
        + message("m2", text("one "))
        + [NUDGE]
        + message("m3", text("two ", "three"), stop="end_turn"),
        "one two three",
        id="a try that finished a part of what was shown",
    ),
    pytest.param(
        [
            *message("m1", text("Checking."), CALL),
            RESULT,
            *message("m2", text("Checking."), CALL, stop="tool_use"),
            RESULT,
            *message("m3", text("Done."), stop="end_turn"),
        ],
        "Checking.\n\nChecking.\n\nDone.",
        id="a finished call ends the message",
    ),
    pytest.param(
        [
            *message("m1", text("Checking."), CALL, text("mo", finished=False)),
            RESULT,
            *message("m2", text("Done."), stop="end_turn"),
        ],
        "Checking.\n\nmo\n\nDone.",
        id="what was begun after a call is neither repeated nor replaced",
    ),
    pytest.param(
        message("m1", text("one ", "two ", finished=False))
        + whole("m2", text("one two three"), CALL)
        + [RESULT, *message("m3", text("Done."), stop="end_turn")],
        "one two three\n\nDone.",
        id="the last try is not streamed",
    ),
    pytest.param(
        [
            *message("m1", text("I write."), CALL, stop="max_tokens"),
            RESULT,
            *message("m2", text("All done."), stop="end_turn"),
        ],
        "I write.\n\nAll done.",
        id="cut after a call",
    ),
    pytest.param(
        message("m1", text("a wo"), stop="model_context_window_exceeded")
        + message("m2", text("rd"), stop="end_turn"),
        "a word",
        id="cut at the context window",
    ),
    pytest.param(
        message("m1", text("a wo"), stop="max_tokens")
        + message("m2")
        + message("m3", text("rd"), stop="end_turn"),
        "a word",
        id="cut, and the rest broke before its first word",
    ),
    pytest.param(
        message("m1", text("One."), thinking("hm"), stop="max_tokens")
        + message("m2", text("Two."), stop="end_turn"),
        "One.\n\nTwo.",
        id="cut in a thought",
    ),
    pytest.param(
        message("m1", text("The sky"), text(" is blue."), stop="end_turn"),
        "The sky is blue.",
        id="adjacent blocks are one text",
    ),
    pytest.param(
        message("m1", text("One."), SERVER_TOOL, text("Two."), stop="end_turn"),
        "One.\n\nTwo.",
        id="a server tool between",
    ),
    pytest.param(
        message("m1", text("One."), thinking(""), text("Two."), stop="end_turn"),
        "One.\n\nTwo.",
        id="a thought between, though an empty one",
    ),
    pytest.param(
        whole("m1", text("One."), SERVER_TOOL, text("Two.")), "One.\n\nTwo.", id="not streamed"
    ),
    pytest.param(
        message("m1", text("ok ", "\ud83d", "\ude00", " end"), stop="end_turn"),
        "ok \U0001f600 end",
        id="a character in two halves",
    ),
    pytest.param(
        message("m1", text("ok ", "\ud83d", " end"), stop="end_turn"),
        "ok \ufffd end",
        id="half a character",
    ),
    pytest.param(
        message("m1", text("ok ", "\ud83d", finished=False))
        + message("m2", text("ok ", "\ud83d\ude00"), stop="end_turn"),
        "ok \U0001f600",
        id="a break between two halves",
    ),
]


@pytest.mark.parametrize(("messages", "told"), CASES)
def test_each_word_is_told_once(messages: list[Message], told: str) -> None:
    assert text_of(translate(messages)) == told


def test_thinking_that_was_finished_may_come_again() -> None:
    messages = message("m1", thinking("so ", "it is")) + message(
        "m2", thinking("so it ", "is"), text("yes"), stop="end_turn"
    )
    events = translate(messages)
    assert "".join(e.text for e in events if isinstance(e, ThinkingDelta)) == "so it is"
    assert text_of(events) == "yes"


def test_a_tool_of_the_models_service_has_its_lines() -> None:
    found = {"type": "web_search_tool_result", "tool_use_id": "search", "content": [{}, {}]}
    messages = [
        *message("m1", SERVER_TOOL)[:-1],
        _event("content_block_start", content_block=found),
        AssistantMessage(content=[], model="claude", message_id="m1"),
    ]
    call, result = (e for e in translate(messages) if isinstance(e, ToolCall | ToolResult))
    assert (call.id, call.name, call.summary) == ("search", "web_search", "x")
    assert (result.id, result.name, result.summary) == ("search", "web_search", "2 results")


def test_only_deltas_of_text_are_text() -> None:
    odd = _event("content_block_delta", delta={"type": "citations_delta", "text": "cited"})
    sent = message("m1", text("one"), stop="end_turn")
    assert text_of(translate([*sent[:2], odd, *sent[2:]])) == "one"


@pytest.mark.parametrize("finished", ["Well, hello", "hello"])
def test_text_in_the_start_of_a_block_is_told_once(finished: str) -> None:
    """Whether or not the CLI takes it for a part of the block."""
    start = {"type": "text", "text": "Well, "}
    messages = [
        _event("message_start", message={"id": "m1"}),
        _event("content_block_start", content_block=start),
        _event("content_block_delta", delta={"type": "text_delta", "text": "hello"}),
        _finished("m1", "text", finished),
    ]
    assert text_of(translate(messages)) == "Well, hello"
