"""The link server under pressure, with a scripted session behind it."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.memory.transcripts import PartKey, Transcripts
from agent.server import LinkServer
from agent.turn import AgentSession, RunningTurn
from infra.wire.errors import ErrorCode
from infra.wire.events import Event, TurnEnded, decode_event
from infra.wire.ids import Fence, TurnId, WorkerId
from infra.wire.link import (
    Ack,
    Hello,
    Interrupt,
    InterruptReason,
    Ping,
    Pong,
    Refused,
    Replay,
    TranscriptAppend,
    TranscriptStored,
    Welcome,
)
from infra.wire.states import TurnState
from tests.fakes.link_client import LinkClosed, connected, end_of, raw_link, start_turn, text_of
from tests.fakes.scripted_agent import (
    Deltas,
    DyingAgent,
    FloodingAgent,
    Hang,
    Note,
    ScriptedAgent,
    ScriptedSession,
    SilentAgent,
)
from tests.fakes.transcript_shelf import TranscriptShelf


@pytest.fixture
def socket() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="agc-", dir="/tmp") as folder:
        yield Path(folder) / "agent.sock"


class Tell:
    """A step that tells the test how far the script is."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()

    async def play(self, turn: RunningTurn, session: ScriptedSession) -> TurnEnded | None:
        self.reached.set()
        return None


class Break:
    """A step with a bug."""

    async def play(self, turn: RunningTurn, session: ScriptedSession) -> TurnEnded | None:
        raise ValueError("a bug")


async def test_a_worker_that_does_not_read_gets_everything_in_fewer_frames(socket: Path) -> None:
    told = Tell()
    agent = ScriptedAgent(socket, [Deltas(50_000), told])
    async with agent, connected(socket, limit=64 * 1024) as (link, _):
        await link.send(start_turn("t", "x"))
        await told.reached.wait()
        events = await link.collect(TurnId("t"))
    assert len(text_of(events).split()) == 50_000
    assert len(events) < 30_000


async def test_a_worker_that_acknowledges_late_holds_the_agent_back(socket: Path) -> None:
    """The outbox keeps to its bound whatever the socket and the worker do."""
    async with FloodingAgent(socket, count=5_000) as agent, connected(socket) as (link, _):
        await link.send(start_turn("t", "x", buffer_max_bytes=50_000))
        texts: list[Event] = []
        async for frame in link.frames():
            texts.append(decode_event(frame.payload))
            if frame.n % 100 == 0:
                await link.send(Ack(turn=TurnId("t"), n=frame.n))
        assert len(text_of(texts).split()) == 5_000
        assert len(agent.session.started) == 1


async def test_a_bug_costs_its_turn_and_not_the_agent(
    socket: Path, caplog: pytest.LogCaptureFixture
) -> None:
    agent = ScriptedAgent(socket, [Break()])
    async with agent, connected(socket) as (link, _):
        error = end_of(await link.run(start_turn("t", "x"))).error
        assert error is not None
        assert error.code is ErrorCode.AGENT_FAILED
        assert "bug" not in error.message
        again = await link.run(start_turn("t2", "x"))
        assert end_of(again).state is TurnState.FAILED
    assert "a bug" in caplog.text


async def test_closing_the_agent_cuts_a_running_turn(socket: Path) -> None:
    async with ScriptedAgent(socket, [Hang()]) as agent, connected(socket) as (link, _):
        await link.send(start_turn("t", "x"))
        await link.read()
        agent.stop()
        with pytest.raises(LinkClosed):
            await link.read()
        await agent.died.wait()
    assert not is_there(socket)


async def test_a_dying_agent_leaves_no_end(socket: Path) -> None:
    async with DyingAgent(socket, last_words="farewell ") as agent:
        async with connected(socket) as (link, _):
            await link.send(start_turn("t", "x"))
            with pytest.raises(LinkClosed):
                await link.collect(TurnId("t"))
        await agent.died.wait()
        assert not is_there(socket)


async def test_a_silent_agent_accepts_and_says_nothing(socket: Path) -> None:
    async with SilentAgent(socket), raw_link(socket) as link:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await link.read()


async def test_a_replay_in_the_middle_of_a_turn_does_not_disturb_it(socket: Path) -> None:
    told = Tell()
    async with ScriptedAgent(socket, [Deltas(1_000), told]), connected(socket) as (link, _):
        await link.send(start_turn("t", "x"))
        await told.reached.wait()
        first = [await link.read() for _ in range(10)]
        assert len(first) == 10
        await link.send(Replay(turn=TurnId("t"), after=0))
        while True:  # What was under way comes first, then everything from 1 on.
            frame = await link.read()
            if frame.n == 1:  # type: ignore[union-attr] # only frames are under way
                break
        events = await link.collect(TurnId("t"), after=1)
    assert end_of(events).state is TurnState.DONE


async def test_a_replay_of_frames_that_are_forgotten_is_refused(socket: Path) -> None:
    """Redis lost the end of a log that was acknowledged: waiting for it would never end."""
    async with (
        ScriptedAgent(socket, [*[Note("a word")] * 10, Hang()]),
        connected(socket) as (link, _),
    ):
        await link.send(start_turn("t", "x"))
        for _ in range(11):
            await link.read()
        await link.send(Ack(turn=TurnId("t"), n=8))
        await link.send(Replay(turn=TurnId("t"), after=4))
        refused = await link.expect(Refused)
        assert (refused.code, refused.turn) == (ErrorCode.LOG_LOST, TurnId("t"))


async def test_a_turn_is_stopped_while_the_session_still_opens(socket: Path) -> None:
    """The SDK's import takes seconds on a busy machine; the worker ended the container meanwhile.

    What was asked is remembered all the same.
    """
    opened = asyncio.Event()
    session = ScriptedSession(None, Transcripts())

    async def open_slowly(group: asyncio.TaskGroup) -> AgentSession:
        await opened.wait()
        return session

    server = LinkServer(
        open_slowly, transcripts=Transcripts(), agent_version="test", sdk_version="none"
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(server.serve(socket))
        await server.listening.wait()
        async with connected(socket) as (link, _):
            await link.send(start_turn("t1", "echo never"))
            await link.send(Interrupt(turn=TurnId("t1"), reason=InterruptReason.CANCELLED))
            ended = end_of(await link.collect(TurnId("t1")))
            assert ended.state is TurnState.CANCELLED

            opened.set()
            events = await link.run(start_turn("t2", "history"))
        server.close()
    assert text_of(events) == "echo never | history"


async def test_an_agent_that_no_worker_speaks_to_any_more_leaves(socket: Path) -> None:
    """`docker compose down` took the workers, and nobody was left to stop their agents."""
    session = ScriptedSession(None, Transcripts())

    async def opened(group: asyncio.TaskGroup) -> AgentSession:
        return session

    server = LinkServer(
        opened, transcripts=Transcripts(), agent_version="test", sdk_version="none", alone_s=30
    )
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        serving = group.create_task(server.serve(socket))
        await server.listening.wait()
        async with raw_link(socket) as link:
            # Less than before, as for a shorter setting; it counts from the last word.
            await link.send(Hello(worker=WorkerId("w"), fence=Fence(1), alone_s=0.3))
            await link.expect(Welcome)
            begun = asyncio.get_running_loop().time()
            for _ in range(4):
                await asyncio.sleep(0.1)
                await link.send(Ping())
                await link.expect(Pong)
            assert not serving.done()
            await serving
    assert asyncio.get_running_loop().time() - begun > 0.6
    assert not is_there(socket)


def is_there(socket: Path) -> bool:
    return socket.exists()


async def test_a_transcript_outlives_the_worker_it_was_sent_to(socket: Path) -> None:
    """The next owner gets it again; what the former one says to it no longer counts."""
    agent = ScriptedAgent(socket)
    async with agent:
        async with raw_link(socket) as old:
            await old.send(Hello(worker=WorkerId("host-00000001"), fence=Fence(1)))
            await old.expect(Welcome)
            await old.send(start_turn("t", "echo one"))
            first = await old.expect(TranscriptAppend)
        async with raw_link(socket) as new:
            await new.send(Hello(worker=WorkerId("host-00000002"), fence=Fence(2)))
            await new.expect(Welcome)
            again = await new.expect(TranscriptAppend)
            assert again == first
            await new.send(TranscriptStored(seq=again.seq))
            await new.send(Ping())
            await new.expect(Pong)
        shelf = TranscriptShelf()
        async with connected(socket, fence=3, shelf=shelf) as (link, _):
            await link.run(start_turn("t2", "echo two"))
            await link.send(Ping())
            await link.expect(Pong)
        assert [entry["text"] for entry in shelf.entries()] == ["echo two"]


async def test_an_entry_that_cannot_be_written_does_not_end_the_agent(socket: Path) -> None:
    """It was sent over each new link, and each greeting broke of it."""
    odd: list[object] = []
    for _ in range(20_000):
        odd = [odd]
    async with ScriptedAgent(socket) as agent:
        agent.transcripts.add(PartKey("", "s"), [{"uuid": "a", "input": odd}])
        for fence in (1, 2):
            async with raw_link(socket) as link:
                await link.send(Hello(worker=WorkerId("w"), fence=Fence(fence)))
                await link.expect(Welcome)
                append = await link.expect(TranscriptAppend)
                assert [entry["uuid"] for entry in append.part.entries] == ["a"]
                await link.send(Ping())
                await link.expect(Pong)


async def test_what_an_older_owner_said_before_a_newer_greeted_is_not_obeyed(socket: Path) -> None:
    """It is in the agent's buffer when the newer hello is read."""
    async with (
        ScriptedAgent(socket, [Hang()]) as agent,
        connected(socket, fence=1) as (older, _),
        raw_link(socket) as newer,
    ):
        await older.send(Ping())  # By its answer the new connection is there, too.
        await older.expect(Pong)
        # Neither waits: one pass of the agent's loop receives both.
        await newer.send(Hello(worker=WorkerId("w-2"), fence=Fence(2)))
        await older.send(start_turn("t", "x"))
        await newer.expect(Welcome)
        await newer.send(Ping())
        await newer.expect(Pong)
        assert agent.session.started == []
