"""What an agent's server may send its worker, and what becomes of it in others' hands."""

from __future__ import annotations

import asyncio
import json

from api.chat.answer.chunks import ChunkFrames
from infra.runtime.clock import SystemClock
from infra.runtime.settings import ToolDisplay
from infra.wire.errors import MalformedMessage, UnknownMessage
from infra.wire.events import (
    Notice,
    TextDelta,
    ThinkingDelta,
    ToolCall,
    ToolResult,
    TurnEnded,
    TurnStarted,
    check_event,
    encode_event,
    is_end,
)
from infra.wire.frames import Frame, decode_frame
from infra.wire.ids import Fence, TurnId
from infra.wire.link import Answer, Pong, Refused, TranscriptAppend, TranscriptPart, Welcome
from infra.wire.states import TurnState
from infra.wire.text.foreign import escaped
from tests.fuzz.mutations import fuzz
from worker.lines import HeldLines
from worker.turns.link.agent_link import AgentLink
from worker.turns.link.transcript_lines import read_head, read_part

TURN = TurnId("turn_" + "1" * 32)
EVENTS = [
    encode_event(event)
    for event in (
        TurnStarted(sdk_session="s-1", model="m"),
        TextDelta(text='a "word" \\ \n é 👍'),
        ThinkingDelta(text="hm\r\n"),
        ToolCall(id="t", name="Bash", summary="ls -la"),
        ToolResult(id="t", name="Bash", summary="ok", is_error=True),
        Notice(text="again"),
        TurnEnded(state=TurnState.DONE),
    )
]
ANSWERS = [
    Welcome(agent_version="1", sdk_version="1", turn=TURN).encode(),
    Refused(code="agent_failed", message="no").encode(),  # type: ignore[arg-type]
    TranscriptAppend(
        seq=1, sdk_session="s-1", part=TranscriptPart(entries=({"uuid": "u", "a": [1, {}]},))
    ).encode(),
    Pong().encode(),
]


class Ear:
    """Hears all, as a conversation would."""

    def __init__(self) -> None:
        self.offences = 0

    def on_frame(self, line: bytes) -> None:
        decode_frame(line)

    def on_answer(self, answer: Answer) -> None:
        assert not isinstance(answer, TranscriptAppend)

    def on_transcript(self, line: bytes) -> None:
        read_head(line)
        for entry in read_part(line).entries:
            assert isinstance(json.loads(entry.json), dict)
            assert b"\n" not in entry.json

    def on_offence(self, error: MalformedMessage) -> None:
        self.offences += 1
        assert len(str(error)) < 500
        assert str(error) == escaped(str(error))

    def on_unknown(self, unknown: UnknownMessage) -> None:
        assert str(unknown) == escaped(str(unknown))

    def on_link_lost(self) -> None:
        """Nobody of ours closed it."""


class Wire(asyncio.Transport):
    """A transport that sends nowhere."""

    is_aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Gone."""

    def is_closing(self) -> bool:
        return self.is_aborted

    def abort(self) -> None:
        self.is_aborted = True

    def close(self) -> None:
        self.is_aborted = True


async def test_no_bytes_of_an_agent_break_its_link() -> None:
    """They are taken, skipped, or an offence; nothing is raised into the loop, nothing is kept."""
    frames = [Frame(TURN, Fence(7), n, event).encode() for n, event in enumerate(EVENTS, 1)]
    stream = ANSWERS[0] + b"\n" + b"\n".join(frames + ANSWERS) + b"\n"

    def attempt(raw: bytes) -> None:
        held, wire = HeldLines(), Wire()
        link = AgentLink(Ear(), SystemClock(), held=held)
        link.connection_made(wire)
        for at in range(0, len(raw), 97):
            if not wire.is_aborted:
                link.data_received(raw[at : at + 97])
        link.connection_lost(None)
        assert held.held_bytes == 0

    # The link's future wants a running loop, so this stays on it: no example waits for anything.
    fuzz([stream, *(line + b"\n" for line in frames + ANSWERS)], attempt)


def test_what_passes_the_check_is_one_good_block_of_a_stream() -> None:
    """Whatever an agent made of it: the relay splices it without looking."""
    chunks = ChunkFrames(
        TURN, created=1, model="m", include_usage=False, display=ToolDisplay.REASONING
    )

    def attempt(payload: bytes) -> None:
        try:
            check_event(payload)
        except MalformedMessage:
            return
        assert b"\n" not in Frame(TURN, Fence(1), 1, payload).encode()
        if is_end(payload):
            return
        shown = chunks.render([payload], 1).replace(b"\r", b"\n")
        for block in shown.split(b"\n\n")[:-1]:
            data = [line for line in block.split(b"\n") if not line.startswith(b"id: ")]
            assert len(data) == 1
            delta = json.loads(data[0].removeprefix(b"data: "))["choices"][0]["delta"]
            assert set(delta) <= {"content", "reasoning_content"}

    fuzz(EVENTS, attempt)
