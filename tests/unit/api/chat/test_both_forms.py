"""An answer in one piece says what the streamed one says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import ExitStack

import pytest
from claude_agent_sdk import Message
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from starlette.types import ASGIApp
from starlette.types import Message as Sent

from api.chat.answer.chunks import ChunkFrames
from api.chat.answer.stream import ChatStream
from api.chat.answer.whole import WholeAnswer
from api.turns.following.open_answer import OpenAnswer
from infra.runtime.settings import ToolDisplay
from infra.wire.events import EndReason, Event, TurnEnded, Usage, encode_event
from infra.wire.history.answers import without_folded
from infra.wire.states import TurnState
from tests.fakes.sse import data_of
from tests.unit.agent.recordings import translate
from tests.unit.agent.translate.test_broken_streams import CASES
from tests.unit.api.turns.following.test_relay import TURN, Bench

MODEL, CREATED = "claude", 1700000000
END = TurnEnded(
    state=TurnState.DONE,
    end_reason=EndReason.LENGTH,
    usage=Usage(input_tokens=7, output_tokens=5, cache_read_input_tokens=3, thinking_tokens=2),
)


class Told(Bench):
    """A turn whose log holds these events."""

    def __init__(self, events: Sequence[Event]) -> None:
        super().__init__()
        self.log.events = dict(enumerate(map(encode_event, events), 1))
        self.log.state = TurnState.DONE
        self.turn = OpenAnswer(self.relay, ExitStack())


async def body_of(app: ASGIApp) -> str:
    """What a client gets that stays until the end."""
    sent = bytearray()

    async def receive() -> Sent:
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

    async def send(message: Sent) -> None:
        sent.extend(message.get("body", b""))

    await app({"type": "http"}, receive, send)
    return sent.decode()


async def whole(events: Sequence[Event], display: ToolDisplay) -> ChatCompletion:
    told = Told(events)
    answer = WholeAnswer(
        told.turn, model=MODEL, created=CREATED, display=display, headers={}, clock=told.clock
    )
    return ChatCompletion.model_validate_json(await body_of(answer), strict=False)


async def streamed(events: Sequence[Event], display: ToolDisplay) -> list[ChatCompletionChunk]:
    told = Told(events)
    frames = ChunkFrames(TURN, created=CREATED, model=MODEL, include_usage=True, display=display)
    stream = ChatStream(
        told.turn,
        frames,
        clock=told.clock,
        headers={},
        commit_after_s=1,
        ping_interval_s=10,
        send_timeout_s=10,
    )
    *chunks, done = data_of((await body_of(stream)).encode())
    assert done == "[DONE]"
    return [ChatCompletionChunk.model_validate(json.loads(chunk)) for chunk in chunks]


ONLY_STREAMED = (ToolDisplay.INLINE, ToolDisplay.LINES)


@pytest.mark.parametrize("display", [d for d in ToolDisplay if d not in ONLY_STREAMED])
@pytest.mark.parametrize(("messages", "told"), CASES)
async def test_streamed_equals_not_streamed(
    messages: list[Message], told: str, display: ToolDisplay
) -> None:
    events = [*translate(messages), END]
    answer = await whole(events, display)
    chunks = await streamed(events, display)
    [choice] = answer.choices
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert "".join(d.content or "" for d in deltas) == choice.message.content
    reasoning = "".join(getattr(d, "reasoning_content", None) or "" for d in deltas)
    assert reasoning == (getattr(choice.message, "reasoning_content", None) or "")
    if display is not ToolDisplay.TEXT:
        assert choice.message.content == told
    finish = [c.choices[0].finish_reason for c in chunks if c.choices]
    assert finish == [None] * (len(finish) - 1) + [choice.finish_reason]
    assert chunks[-1].usage == answer.usage


@pytest.mark.parametrize("display", ONLY_STREAMED)
@pytest.mark.parametrize(("messages", "told"), CASES)
async def test_only_a_stream_has_tools_in_its_text(
    messages: list[Message], told: str, display: ToolDisplay
) -> None:
    events = [*translate(messages), END]
    assert await whole(events, display) == await whole(events, ToolDisplay.REASONING)
    chunks = await streamed(events, display)
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    shown = without_folded("".join(delta.content or "" for delta in deltas))
    assert shown.split() == told.split()
