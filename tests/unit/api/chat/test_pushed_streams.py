"""What is pushed and what the stream's task sends make one stream, as if nothing were pushed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message

from api.chat.answer.chunks import DONE, ChunkFrames
from api.chat.answer.stream import ChatStream
from api.http.client import offered
from api.turns.chain import AnswerHead
from api.turns.following.open_answer import OpenAnswer
from api.turns.following.relay import Relay
from infra.runtime.clock import SystemClock
from infra.runtime.settings import ToolDisplay
from infra.store.turns.log import LogPage
from infra.store.turns.mailbox import LiveTurn
from infra.wire.errors import ErrorCode, TurnFailed
from infra.wire.events import (
    Event,
    Notice,
    TextDelta,
    ThinkingDelta,
    ToolCall,
    TurnEnded,
    TurnStarted,
    encode_event,
)
from infra.wire.frames import Frame
from infra.wire.ids import Fence, TurnId
from infra.wire.states import TurnState

TURN = TurnId("turn_1")
END = TurnEnded(state=TurnState.DONE)
STARTED = TurnStarted(sdk_session="s", model="m")
TOOL = ToolCall(id="t1", name="Read", summary="a.py")


def texts(*words: str) -> list[Event]:
    return [TextDelta(text=word) for word in words]


class Wire:
    """The connection of the one client, as the server's class offers it."""

    def __init__(self) -> None:
        self.is_clogged = False
        self.body = bytearray()
        self.pushed: list[bytes] = []
        self.sent: list[bytes] = []
        self.gone = asyncio.Event()
        self.pinged = asyncio.Event()
        self._tell: Callable[[], None] | None = None
        self._is_writable = asyncio.Event()
        self._is_writable.set()

    def push(self, body: bytes) -> bool:
        if self.is_clogged:
            return False
        self.pushed.append(body)
        self.body += body
        return True

    def on_departure(self, tell: Callable[[], None] | None) -> bool:
        self._tell = tell
        return True

    def leave(self) -> None:
        self.gone.set()
        if self._tell is not None:
            self._tell()

    async def receive(self) -> Message:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        await self._is_writable.wait()
        if body := message.get("body", b""):
            self.sent.append(body)
            self.body += body
        if b": ping" in body:
            self.pinged.set()

    def clog(self) -> None:
        self.is_clogged = True
        self._is_writable.clear()

    def clear(self) -> None:
        self.is_clogged = False
        self._is_writable.set()


class Log:
    """The turn's log, which has what the test says it has."""

    def __init__(self) -> None:
        self.events: dict[int, bytes] = {}
        self.state = TurnState.RUNNING
        self.reads = 0

    async def read(self, turn: TurnId, *, after: int, limit: int = 1000) -> LogPage:
        self.reads += 1
        page = [(n, e) for n, e in sorted(self.events.items()) if n > after][:limit]
        return LogPage(page, self.state, len(page))

    async def newest(self, turn: TurnId) -> bytes | None:
        return self.events[max(self.events)] if self.events else None

    async def position(self, turn: TurnId) -> int | None:
        return None

    async def expire(self, turn: TurnId) -> bool:
        return False


@dataclass
class Stage:
    """One stream, its mailbox and its client."""

    mailbox: LiveTurn
    relay: Relay
    log: Log
    wire: Wire
    stream: ChatStream
    events: list[Event] = field(default_factory=list)

    async def hear(self, *events: Event, fence: int = 1) -> None:
        """Further events of the turn, all in one message."""
        self.deliver(*events, fence=fence)
        await settle()

    def deliver(self, *events: Event, fence: int = 1) -> None:
        """The same, and nobody gets the time to do anything about it."""
        self.mailbox.deliver(self.frames(*events, fence=fence))

    def frames(self, *events: Event, fence: int = 1) -> list[Frame]:
        first = len(self.events) + 1
        self.events += events
        told = enumerate(map(encode_event, events), first)
        frames = [Frame(TURN, Fence(fence), n, payload) for n, payload in told]
        self.log.events |= {frame.n: frame.payload for frame in frames}
        return frames


async def settle() -> None:
    """Everybody gets as far as they can without hearing anything new."""
    for _ in range(30):
        await asyncio.sleep(0)


def frames_of(
    *, display: ToolDisplay = ToolDisplay.REASONING, is_numbered: bool = False,
    head: AnswerHead | None = None,
) -> ChunkFrames:  # fmt: skip
    return ChunkFrames(
        TURN, created=1, model="m", include_usage=False, display=display, head=head,
        is_numbered=is_numbered,
    )  # fmt: skip


def expected(events: Sequence[Event], frames: ChunkFrames | None = None) -> bytes:
    """The whole stream of these events, the last of which ends it."""
    frames = frames or frames_of()
    *said, end = events
    assert isinstance(end, TurnEnded)
    body = frames.first() + frames.render(map(encode_event, said), 1)
    return body + frames.last(end, len(events))


@asynccontextmanager
async def streaming(
    frames: ChunkFrames | None = None,
    *,
    ping_interval_s: float = 60,
    send_timeout_s: float = 60,
    mailbox_frames: int = 256,
    is_pushable: bool = True,
) -> AsyncIterator[Stage]:
    """A stream for the length of the block; it must be over by then."""
    mailbox = LiveTurn(frames_max=mailbox_frames, bytes_max=1_000_000)
    log, wire, clock = Log(), Wire(), SystemClock()
    relay = Relay(
        TURN, mailbox=mailbox, turn_log=log, turns=log, clock=clock, queue_timeout_s=30,
        deadline_s=100, is_fresh=True,
    )  # fmt: skip
    stream = ChatStream(
        OpenAnswer(relay, ExitStack()), frames or frames_of(), clock=clock, headers={},
        commit_after_s=60, ping_interval_s=ping_interval_s, send_timeout_s=send_timeout_s,
    )  # fmt: skip
    scope = {"type": "http"} | ({"extensions": offered(wire)} if is_pushable else {})
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(stream(scope, wire.receive, wire.send))
        await settle()
        yield Stage(mailbox, relay, log, wire, stream)
    mailbox.close()


async def test_deltas_are_pushed_together_once_the_stream_has_begun() -> None:
    async with streaming() as stage:
        await stage.hear(*texts("a"))
        await stage.hear(*texts("b", "c"))
        stage.deliver(*texts("d"))
        assert len(stage.wire.pushed) == 2, "one write a message, and no task had to run"
        await stage.hear(END)
    assert stage.wire.body == expected(stage.events)
    assert len(stage.wire.sent) == 2, "the beginning and the end"
    assert stage.log.reads == 0


async def test_a_server_that_offers_nothing_gets_the_same_stream() -> None:
    async with streaming(is_pushable=False) as stage:
        await stage.hear(*texts("a"))
        await stage.hear(*texts("b", "c"))
        await stage.hear(END)
    assert stage.wire.pushed == []
    assert stage.wire.body == expected(stage.events)


async def test_an_end_in_the_same_message_comes_after_its_deltas() -> None:
    async with streaming() as stage:
        await stage.hear(*texts("a"))
        await stage.hear(*texts("b", "c"), END)
    assert stage.wire.pushed == []
    assert stage.wire.body == expected(stage.events)
    assert stage.wire.body.count(DONE) == 1


async def test_frames_of_two_owners_in_one_message_are_told_apart() -> None:
    """The older owner's frames after the newer one's are not the turn's."""
    async with streaming() as stage:
        await stage.hear(*texts("a"))
        mixed = stage.frames(*texts("b", "c"), fence=1) + stage.frames(*texts("d"), fence=2)
        stale = Frame(TURN, Fence(1), 5, encode_event(TextDelta(text="lost")))
        stage.mailbox.deliver([*mixed, stale])
        await settle()
        assert stage.wire.pushed == []
        await stage.hear(*texts("e"), fence=2)
        assert len(stage.wire.pushed) == 1
        await stage.hear(*texts("f"), END, fence=2)
    assert stage.wire.body == expected(stage.events)
    assert b"lost" not in stage.wire.body


async def test_a_gap_within_a_message_is_filled_from_the_log() -> None:
    async with streaming() as stage:
        await stage.hear(*texts("a"))
        frames = stage.frames(*texts("b", "c", "d"))
        stage.mailbox.deliver([frames[0], frames[2]])
        await settle()
        assert stage.log.reads == 1
        await stage.hear(*texts("e"))
        assert len(stage.wire.pushed) == 1
        await stage.hear(END)
    assert stage.wire.body == expected(stage.events)


async def test_frames_that_come_again_are_not_sent_again() -> None:
    async with streaming() as stage:
        await stage.hear(*texts("a"))
        frames = stage.frames(*texts("b", "c"))
        for again in (frames, frames, frames[1:]):
            stage.mailbox.deliver(again)
            await settle()
        await stage.hear(*texts("d"))
        await stage.hear(END)
    assert stage.wire.body == expected(stage.events)


async def test_an_overflow_between_pushes_sends_the_stream_to_the_log() -> None:
    async with streaming() as stage:
        await stage.hear(*texts("a"))
        await stage.hear(*texts("b"))
        stage.frames(*texts("lost"))
        stage.mailbox.overflow()
        stage.deliver(*texts("d"))  # It is awake: this may not overtake.
        assert len(stage.wire.pushed) == 1
        await settle()
        assert stage.log.reads == 1
        await stage.hear(*texts("e"))
        assert len(stage.wire.pushed) == 2
        await stage.hear(END)
    assert stage.wire.body == expected(stage.events)


async def test_a_message_larger_than_a_mailbox_is_pushed_in_pieces() -> None:
    async with streaming(mailbox_frames=4) as stage:
        await stage.hear(*texts("a"))
        await stage.hear(*texts(*"bcdefghij"))
        assert [body.count(b"data: ") for body in stage.wire.pushed] == [4, 4, 1]
        await stage.hear(END)
    assert stage.wire.body == expected(stage.events)
    assert stage.log.reads == 0


async def test_nothing_is_pushed_to_a_clogged_connection() -> None:
    """What comes meanwhile waits in the bounded mailbox; beyond that it is read from the log."""
    async with streaming(mailbox_frames=4) as stage:
        await stage.hear(*texts("a"))
        stage.wire.clog()
        for n in range(20):
            await stage.hear(*texts(f"clogged {n}"))
        assert stage.wire.pushed == []
        assert b"clogged" not in stage.wire.body
        assert len(stage.mailbox.take()) <= 4
        stage.mailbox.overflow()
        stage.wire.clear()
        await settle()
        assert stage.log.reads >= 1
        await stage.hear(*texts("b"))
        assert len(stage.wire.pushed) == 1
        await stage.hear(END)
    assert stage.wire.body == expected(stage.events)


async def test_a_client_that_reads_nothing_is_dropped_even_if_no_send_waits() -> None:
    async with streaming(send_timeout_s=0.05) as stage:
        await stage.hear(*texts("a"))
        await stage.hear(*texts("b"))
        stage.wire.clog()  # The push before has filled the buffers, and the turn is silent.
    assert DONE not in stage.wire.body


async def test_a_client_that_reads_slowly_is_not_dropped() -> None:
    """Its connection is clogged whenever one looks, but something is written in between."""
    async with streaming(send_timeout_s=0.2) as stage:
        await stage.hear(*texts("a"))
        for word in "bcdefgh":
            stage.wire.clog()
            await asyncio.sleep(0.06)
            stage.wire.clear()
            await stage.hear(*texts(word))
        await stage.hear(END)
    assert stage.wire.body == expected(stage.events)


async def test_pings_count_from_the_last_push() -> None:
    async with streaming(ping_interval_s=0.2) as stage:
        await stage.hear(*texts("a"))
        for word in "bcdefgh":
            await asyncio.sleep(0.1)
            await stage.hear(*texts(word))
        assert b"ping" not in stage.wire.body
        await stage.wire.pinged.wait()
        await stage.hear(*texts("after"))
        await stage.hear(END)
    assert bytes(stage.wire.body).replace(b": ping\n\n", b"") == expected(stage.events)
    assert len(stage.wire.pushed) == 8


async def test_a_delta_during_a_ping_comes_after_it() -> None:
    async with streaming(ping_interval_s=0.05) as stage:
        await stage.hear(*texts("a"))
        stage.wire.clog()
        await asyncio.sleep(0.2)  # The ping waits for the client.
        await stage.hear(*texts("b"))
        assert stage.wire.pushed == []
        stage.wire.clear()
        await settle()
        assert stage.wire.body.index(b"ping") < stage.wire.body.index(b'"b"')
        await stage.hear(*texts("c"))
        await stage.hear(END)
    assert bytes(stage.wire.body).replace(b": ping\n\n", b"") == expected(stage.events)


@pytest.mark.parametrize("is_pushable", [True, False])
async def test_a_client_that_left_gets_nothing_more(is_pushable: bool) -> None:
    async with streaming(is_pushable=is_pushable) as stage:
        await stage.hear(*texts("a"))
        stage.wire.leave()
        await stage.hear(*texts("b"))
        assert stage.mailbox.sink is None
        stage.deliver(*texts("c"))
    assert b'"c"' not in stage.wire.body


async def test_a_connection_that_closes_takes_no_push() -> None:
    """It refuses, as the server's does; the task then finds out why."""
    async with streaming() as stage:
        await stage.hear(*texts("a"))
        stage.wire.push = lambda body: False  # type: ignore[method-assign]
        await stage.hear(*texts("b"))
        assert stage.relay.cursor == 2
        await stage.hear(END)
    assert stage.wire.body == expected(stage.events)


async def test_a_shutdown_between_pushes_ends_the_stream_after_them() -> None:
    async with streaming() as stage:
        await stage.hear(*texts("a"))
        await stage.hear(*texts("b"))
        stage.relay.stop(TurnFailed("", code=ErrorCode.SHUTTING_DOWN))
        stage.deliver(*texts("c"))
        await settle()
    assert len(stage.wire.pushed) == 1, "nothing is pushed past the stop"
    begun = expected([*stage.events, END]).removesuffix(frames_of().last(END, 4))
    assert stage.wire.body.startswith(begun)
    assert b'"starting_after":3' in stage.wire.body
    assert DONE not in stage.wire.body


async def test_numbers_of_pushed_events_lead_back_to_them() -> None:
    frames = frames_of(is_numbered=True)
    async with streaming(frames) as stage:
        await stage.hear(STARTED, *texts("a"))
        await stage.hear(*texts("b", "c"))
        await stage.hear(Notice(text="again"))
        await stage.hear(*texts("d"))
        await stage.hear(END)
    assert len(stage.wire.pushed) == 2
    assert stage.wire.body == expected(stage.events, frames_of(is_numbered=True))
    ids = [int(line[4:]) for line in stage.wire.body.split(b"\n") if line.startswith(b"id: ")]
    assert all(before <= after for before, after in pairwise(ids))
    assert {3, 4, 6} <= set(ids)


@pytest.mark.parametrize("display", ToolDisplay)
async def test_tools_and_thinking_in_between_are_the_tasks(display: ToolDisplay) -> None:
    async with streaming(frames_of(display=display)) as stage:
        await stage.hear(STARTED)
        await stage.hear(ThinkingDelta(text="hm"))
        await stage.hear(ThinkingDelta(text="m"))
        await stage.hear(*texts("a"))
        await stage.hear(*texts("b"))
        await stage.hear(TOOL)
        await stage.hear(*texts("c"))
        await stage.hear(*texts("d", "e"))
        await stage.hear(ThinkingDelta(text="so"), *texts("f"))
        await stage.hear(END)
    assert stage.wire.body == expected(stage.events, frames_of(display=display))
    pushed = b"".join(stage.wire.pushed)
    assert b'"d"' in pushed
    assert b"Read" not in pushed


async def test_the_head_of_an_answer_is_complete_before_anything_is_pushed() -> None:
    """The conversation is found again by it."""
    head = AnswerHead()
    async with streaming(frames_of(head=head)) as stage:
        await stage.hear(*texts("a"))
        await stage.hear(*texts("b"))
        assert head.text == "ab"
        await stage.hear(*texts("x" * 100))
        assert stage.wire.pushed == []
        await stage.hear(*texts("y"))
        assert len(stage.wire.pushed) == 1
        await stage.hear(END)
    assert stage.wire.body == expected(stage.events)


EVENTS = st.sampled_from(
    [
        TextDelta(text="a"),
        TextDelta(text=""),
        TextDelta(text="\nb\n"),
        ThinkingDelta(text="c"),
        TOOL,
        Notice(text="again"),
    ]
)
FAULTS = st.sampled_from(
    ["", "", "", "lost", "again", "stale", "taken over", "clogged", "clear", "awake", "overflow"]
)


@given(
    told=st.lists(st.tuples(st.lists(EVENTS, max_size=4), FAULTS), max_size=12),
    display=st.sampled_from(ToolDisplay),
    is_numbered=st.booleans(),
)
async def test_whatever_happens_every_event_is_sent_once_in_order(
    told: list[tuple[list[Event], str]], display: ToolDisplay, is_numbered: bool
) -> None:
    def frames() -> ChunkFrames:
        return frames_of(display=display, is_numbered=is_numbered)

    async with streaming(frames(), mailbox_frames=6) as stage:
        fence = 2
        await stage.hear(*texts("first"), fence=fence)
        for events, fault in told:
            fence += fault == "taken over"
            arriving = stage.frames(*events, fence=fence)
            match fault:
                case "lost":
                    arriving = arriving[1:]
                case "again":
                    arriving = [*arriving, *arriving]
                case "stale":
                    wrong = encode_event(TextDelta(text="wrong"))
                    n = len(stage.events) + 1
                    arriving = [*arriving, Frame(TURN, Fence(1), n, wrong)]
                case "clogged":
                    stage.wire.clog()
                case "clear":
                    stage.wire.clear()
                case "overflow":
                    stage.mailbox.overflow()
            stage.mailbox.deliver(arriving)
            if fault != "awake":
                await settle()
        stage.wire.clear()
        stage.frames(END)
        stage.log.state = TurnState.DONE
        stage.mailbox.overflow()
    assert stage.wire.body == expected(stage.events, frames())
