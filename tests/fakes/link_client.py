"""A worker's side of the link, for tests that talk to an agent directly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from infra.wire.base import Message
from infra.wire.events import Event, TextDelta, TurnEnded, decode_event
from infra.wire.frames import Frame, decode_frame, is_frame
from infra.wire.ids import Fence, TurnId, WorkerId
from infra.wire.link import (
    LINE_MAX_BYTES,
    AgentSettings,
    AgentTimes,
    Answer,
    BaseKind,
    Hello,
    McpServers,
    Replay,
    StartTurn,
    Transcript,
    TranscriptAppend,
    TranscriptStored,
    Welcome,
    decode_answer,
)
from infra.wire.mcp.secrets import AgentMcpServer
from infra.wire.options import NO_TURN_OPTIONS, TurnOptions
from infra.wire.turns import ContentBlock, HistoryMessage, TextBlock
from tests.fakes.transcript_shelf import TranscriptShelf

AnswerT = TypeVar("AnswerT", bound=Message)
REPLY_TIMEOUT_S = 90.0


class LinkClosed(Exception):
    """The agent hung up."""


class LinkClient:
    """One connection to an agent. Reads are bounded by `REPLY_TIMEOUT_S`.

    Transcripts are put on the shelf, unless there is none: then they are read as any answer.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        shelf: TranscriptShelf | None = None,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._shelf = shelf
        self.times: list[AgentTimes] = []
        """What the agent reported of its start."""
        self.servers: list[McpServers] = []
        """What it reported of its MCP servers."""

    async def send(self, message: Message) -> None:
        """Write one command."""
        self._writer.write(message.encode() + b"\n")
        await self._writer.drain()

    async def send_raw(self, line: bytes) -> None:
        """Write any bytes."""
        self._writer.write(line)
        await self._writer.drain()

    async def read(self) -> Frame | Answer:
        """The next frame or answer. Raises `LinkClosed`."""
        while True:
            got = await self._read_line()
            if isinstance(got, AgentTimes):
                self.times.append(got)
            elif isinstance(got, McpServers):
                self.servers.append(got)
            elif isinstance(got, TranscriptAppend) and self._shelf:
                self._shelf.put(got)
                await self.send(TranscriptStored(seq=got.seq))
            else:
                return got

    async def _read_line(self) -> Frame | Answer:
        async with asyncio.timeout(REPLY_TIMEOUT_S):
            try:
                line = await self._reader.readline()
            except ConnectionResetError:
                line = b""
        if not line:
            raise LinkClosed
        line = line.rstrip(b"\n")
        return decode_frame(line) if is_frame(line) else decode_answer(line)

    async def expect(self, kind: type[AnswerT]) -> AnswerT:
        """The next answer, which must be of that type; frames before it are skipped."""
        while isinstance(got := await self.read(), Frame):
            pass
        assert isinstance(got, kind), got
        return got

    async def frames(self) -> AsyncIterator[Frame]:
        """Frames up to and with the end of a turn; answers between them are an error."""
        while True:
            got = await self.read()
            assert isinstance(got, Frame), got
            yield got
            if isinstance(decode_event(got.payload), TurnEnded):
                return

    async def run(self, start: StartTurn) -> list[Event]:
        """Start a turn and collect its events, checking that their numbers have no gap."""
        await self.send(start)
        return await self.collect(start.turn)

    async def collect(self, turn: TurnId, *, after: int = 0) -> list[Event]:
        """The events of a turn from the next frame to its end."""
        events: list[Event] = []
        async for frame in self.frames():
            assert frame.turn == turn
            after += 1
            assert frame.n == after
            events.append(decode_event(frame.payload))
        return events

    async def replay(self, turn: TurnId, *, after: int = 0) -> list[Event]:
        """Ask for the rest of a turn and collect it."""
        await self.send(Replay(turn=turn, after=after))
        return await self.collect(turn, after=after)

    async def close(self) -> None:
        """Hang up."""
        self._writer.close()


@asynccontextmanager
async def connected(
    socket: Path,
    *,
    fence: int = 1,
    worker: str = "host-00000001",
    limit: int = LINE_MAX_BYTES,
    shelf: TranscriptShelf | None = None,
) -> AsyncIterator[tuple[LinkClient, Welcome]]:
    """A link that has been welcomed; it reads ahead of its reader up to twice the limit.

    Transcripts go to `shelf`; without one they are stored nowhere, but said to be.
    """
    async with raw_link(socket, limit=limit, shelf=shelf or TranscriptShelf()) as link:
        await link.send(Hello(worker=WorkerId(worker), fence=Fence(fence)))
        yield link, await link.expect(Welcome)


@asynccontextmanager
async def raw_link(
    socket: Path, *, limit: int = LINE_MAX_BYTES, shelf: TranscriptShelf | None = None
) -> AsyncIterator[LinkClient]:
    """A link on which nothing has been said."""
    reader, writer = await asyncio.open_unix_connection(str(socket), limit=limit)
    try:
        yield LinkClient(reader, writer, shelf)
    finally:
        writer.close()


def start_turn(
    turn: str,
    prompt: str | tuple[ContentBlock, ...],
    *,
    model: str = "claude-sonnet-4-5-20250929",
    system_prompt: str | None = None,
    tools: tuple[str, ...] = (),
    history: tuple[HistoryMessage, ...] = (),
    interrupt_grace_s: float = 5.0,
    buffer_max_bytes: int = 32 * 1024 * 1024,
    max_turns: int | None = None,
    base: BaseKind = BaseKind.CONTINUE,
    checkpoint: str | None = None,
    transcript: Transcript | None = None,
    restore_from: int | None = None,
    turn_options: TurnOptions = NO_TURN_OPTIONS,
    mcp: Mapping[str, AgentMcpServer] | None = None,
) -> StartTurn:
    """A `StartTurn` of the usual kind."""
    settings = AgentSettings(
        model=model,
        system_prompt=system_prompt,
        tools=tools,
        max_turns=max_turns,
        interrupt_grace_s=interrupt_grace_s,
        buffer_max_bytes=buffer_max_bytes,
        mcp=mcp or {},
    )
    blocks = (TextBlock(text=prompt),) if isinstance(prompt, str) else prompt
    return StartTurn(
        turn=TurnId(turn),
        settings=settings,
        base=base,
        checkpoint=checkpoint,
        transcript=transcript,
        history=history,
        restore_from=restore_from,
        turn_options=turn_options,
        prompt=blocks,
    )


def text_of(events: list[Event]) -> str:
    """The answer: all text deltas, joined."""
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def end_of(events: list[Event]) -> TurnEnded:
    """The turn's end."""
    assert isinstance(events[-1], TurnEnded), events[-3:]
    return events[-1]
