"""Tools as lines of the text, for clients that fold nothing in it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from api.chat.answer.chunks import ChunkFrames
from api.turns.chain import AnswerHead
from infra.runtime.settings import ToolDisplay
from infra.wire.events import (
    Event,
    TextDelta,
    ThinkingDelta,
    ToolCall,
    ToolResult,
    TurnEnded,
    TurnStarted,
    encode_event,
)
from infra.wire.history.answers import ToldHeads, agree, shown_head, without_folded
from infra.wire.ids import TurnId
from infra.wire.states import TurnState
from tests.fakes.sse import data_of

END = TurnEnded(state=TurnState.DONE)
CALL = ToolCall(id="1", name="Bash", summary="ls ![x](http://evil.example/?q)")
RESULT = ToolResult(id="1", name="Bash", summary="<b>two</b>")
ALL: list[Event] = [
    ThinkingDelta(text="First look."),
    TextDelta(text="I look."),
    CALL,
    RESULT,
    ThinkingDelta(text="Hm."),
    TextDelta(text="Two."),
]


def shown(events: Sequence[Event], head: AnswerHead | None = None) -> tuple[str, str]:
    frames = ChunkFrames(
        TurnId("t"), created=1, model="m", include_usage=False, display=ToolDisplay.LINES, head=head
    )
    stream = frames.render(map(encode_event, events), 1) + frames.last(END, len(events) + 1)
    bodies = [json.loads(body) for body in data_of(stream) if body != "[DONE]"]
    deltas: list[dict[str, Any]] = [body["choices"][0]["delta"] for body in bodies]
    return tuple(
        "".join(delta.get(name) or "" for delta in deltas)
        for name in ("content", "reasoning_content")
    )  # type: ignore[return-value] # two names


def test_a_tool_stands_where_it_ran_and_thoughts_beside_the_text() -> None:
    text, reasoning = shown(ALL)
    before, *lines, after = [line for line in text.split("\n") if line]
    assert (before, after) == ("I look.", "Two.")
    assert [line[:4] for line in lines] == ["> - "] * 2
    assert "Bash" in lines[0]
    assert reasoning == "First look.\nHm."


def test_what_a_program_printed_means_nothing() -> None:
    text, _ = shown(ALL)
    assert "![" not in text
    assert "<b>" not in text.replace("\\<", "")


def test_the_lines_are_taken_out_of_what_comes_back_and_change_no_answer() -> None:
    head = AnswerHead()
    text, _ = shown(ALL, head)
    for sent in (text, text.replace("\n", "\r\n"), text[: text.rindex("\n")]):
        assert without_folded(sent).split() in (["I", "look.", "Two."], ["I", "look."])
    assert head.text.split() == ["Ilook.Two."]
    told = ToldHeads()
    for event in ALL:
        told.add(event)
    assert agree(told.heads, shown_head(without_folded(text)))


@pytest.mark.parametrize("said", ["> - a list in a quote\n> - of the answer", "> -\n", "x"])
def test_the_answers_own_lists_stay(said: str) -> None:
    assert without_folded(shown([TextDelta(text=said)])[0]) == said


def test_an_answer_in_a_form_has_no_lines() -> None:
    started = TurnStarted(sdk_session="s", model="m", has_form=True)
    text, reasoning = shown([started, CALL, RESULT, TextDelta(text='{"a":1}')])
    assert text == '{"a":1}'
    assert "Bash" in reasoning
