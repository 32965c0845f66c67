"""Calls of the client's functions in OpenAI's chunks."""

from __future__ import annotations

import json
from typing import Any

from openai.types.chat import ChatCompletionChunk

from api.chat.answer.call_pieces import PIECE_CHARS
from api.chat.answer.chunks import ChunkFrames
from infra.runtime.settings import ToolDisplay
from infra.wire.events import ClientCall, EndReason, Event, TextDelta, TurnEnded, encode_event
from infra.wire.ids import TurnId
from infra.wire.states import TurnState
from tests.fakes.sse import data_of

END = TurnEnded(state=TurnState.DONE, end_reason=EndReason.CALLS)
LONG = json.dumps({"text": "é" * PIECE_CHARS + '"\\'}, ensure_ascii=False)


def call(id: str, arguments: str = "{}", **more: Any) -> ClientCall:
    return ClientCall(id=id, name="f", arguments=arguments, **more)


def frames(*, is_numbered: bool = False) -> ChunkFrames:
    return ChunkFrames(
        TurnId("turn_1"),
        created=1,
        model="m",
        include_usage=False,
        display=ToolDisplay.REASONING,
        is_numbered=is_numbered,
    )


def chunks(stream: bytes) -> list[Any]:
    bodies = [body for body in data_of(stream) if body != "[DONE]"]
    return [ChatCompletionChunk.model_validate_json(body).choices[0] for body in bodies]


def test_calls_come_in_pieces_with_their_index() -> None:
    made = frames()
    events: list[Event] = [TextDelta(text="hm"), call("call_1", LONG), call("call_2")]
    rendered = made.render([encode_event(event) for event in events], 1)
    read = chunks(rendered + made.last(END, 4))
    deltas = [one for choice in read for one in choice.delta.tool_calls or ()]
    assert [(d.index, d.id, d.type, d.function.name) for d in deltas if d.id] == [
        (0, "call_1", "function", "f"),
        (1, "call_2", "function", "f"),
    ]
    assert "".join(d.function.arguments for d in deltas if d.index == 0) == LONG
    assert len([d for d in deltas if d.index == 0]) > 2
    assert read[-1].finish_reason == "tool_calls"


def test_the_older_form() -> None:
    made = frames()
    event = encode_event(call("call_1", '{"n":1}', is_legacy=True))
    read = chunks(made.render([event], 1) + made.last(END, 2))
    told = [choice.delta.function_call for choice in read if choice.delta.function_call]
    assert (told[0].name, "".join(one.arguments for one in told)) == ("f", '{"n":1}')
    assert all(choice.delta.tool_calls is None for choice in read)
    assert read[-1].finish_reason == "function_call"


def test_a_call_counts_as_seen_only_with_its_last_piece() -> None:
    """A client that resumes in the middle of a call gets all of it again."""
    stream = frames(is_numbered=True).render([encode_event(call("call_1", LONG))], 7)
    ids = [line for line in stream.split(b"\n") if line.startswith(b"id: ")]
    assert set(ids[:-1]) == {b"id: 6"}
    assert ids[-1] == b"id: 7"


def test_calls_that_were_seen_before_keep_their_index() -> None:
    made = frames()
    made.skip([encode_event(call("call_1"))])
    (first, *_) = chunks(made.render([encode_event(call("call_2"))], 2))
    assert first.delta.tool_calls[0].index == 1
