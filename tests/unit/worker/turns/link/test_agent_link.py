"""The link: opened without trust, cut into lines, refused and broken in known ways."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop

from infra.runtime.clock import SystemClock
from infra.wire.errors import AgentUnreachable, MalformedMessage, UnknownMessage
from infra.wire.frames import Frame
from infra.wire.ids import Fence, TurnId, WorkerId
from infra.wire.link import TRANSCRIPT_HEAD, Answer, Hello, Pong, Welcome
from tests.fakes.link_client import start_turn
from tests.fakes.manual_clock import settle
from tests.fakes.scripted_agent import ScriptedAgent, SilentAgent
from worker.turns.link.agent_link import CHATTER_MAX_LINES, AgentLink, connect

HELLO = Hello(worker=WorkerId("host-1-a"), fence=Fence(7))
WELCOME = Welcome(agent_version="1", sdk_version="1").encode() + b"\n"
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Listener:
    """Remembers what it hears."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.answers: list[Answer] = []
        self.transcripts: list[bytes] = []
        self.offences: list[MalformedMessage] = []
        self.unknown: list[UnknownMessage] = []
        self.heard = asyncio.Event()
        self.lost = asyncio.Event()
        self.is_offended = False

    def on_frame(self, line: bytes) -> None:
        if self.is_offended:
            raise MalformedMessage("not what I expected")
        self.frames.append(line)
        self.heard.set()

    def on_answer(self, answer: Answer) -> None:
        self.answers.append(answer)
        self.heard.set()

    def on_transcript(self, line: bytes) -> None:
        self.transcripts.append(line)
        self.heard.set()

    def on_offence(self, error: MalformedMessage) -> None:
        self.offences.append(error)

    def on_unknown(self, unknown: UnknownMessage) -> None:
        self.unknown.append(unknown)

    def on_link_lost(self) -> None:
        self.lost.set()


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="agc-l-") as name:
        yield Path(name)


@asynccontextmanager
async def agent(path: Path, serve: Serve) -> AsyncIterator[None]:
    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_unix_server(served, path=path)
    try:
        yield
        # Let a server notice that its peer has gone.
        await settle()
    finally:
        server.close()


async def link_to(path: Path, listener: Listener, *, timeout_s: float = 5) -> AgentLink:
    return await connect(path, HELLO, listener, SystemClock(), timeout_s=timeout_s)


async def test_a_turn_comes_over_the_link_frame_by_frame(folder: Path) -> None:
    listener = Listener()
    async with ScriptedAgent(folder / "agent.sock") as running:
        link = await link_to(running.socket, listener)
        link.send(start_turn("turn_1", "echo hello there"))
        async with asyncio.timeout(10):
            while len(listener.frames) < 4:
                listener.heard.clear()
                await listener.heard.wait()
        assert listener.frames[1].startswith(b"turn_1 7 2 ")
        link.ping()
        async with asyncio.timeout(10):
            while Pong() not in listener.answers:
                listener.heard.clear()
                await listener.heard.wait()
        link.close()


def test_it_works_on_uvloop_too(folder: Path) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test_a_turn_comes_over_the_link_frame_by_frame(folder))


async def test_a_symbolic_link_is_not_followed(folder: Path) -> None:
    async with ScriptedAgent(folder / "other.sock"):
        os.symlink(folder / "other.sock", folder / "agent.sock")
        with pytest.raises(AgentUnreachable):
            await link_to(folder / "agent.sock", Listener())


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir, os.mkfifo])
async def test_what_is_no_socket_is_refused(folder: Path, make: Callable[[Path], None]) -> None:
    make(folder / "agent.sock")
    with pytest.raises(AgentUnreachable):
        await link_to(folder / "agent.sock", Listener())


async def test_a_missing_socket_is_an_unreachable_agent(folder: Path) -> None:
    with pytest.raises(AgentUnreachable):
        await link_to(folder / "agent.sock", Listener())


async def test_a_socket_nobody_listens_on_is_an_unreachable_agent(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(folder / "agent.sock"))
    with pytest.raises(AgentUnreachable):
        await link_to(folder / "agent.sock", Listener())


async def test_an_agent_that_does_not_greet_is_given_up_in_time(folder: Path) -> None:
    async with SilentAgent(folder / "agent.sock") as silent:
        with pytest.raises(AgentUnreachable):
            await link_to(silent.socket, Listener(), timeout_s=0.1)


async def test_a_refused_hello_is_an_unreachable_agent(folder: Path) -> None:
    async with ScriptedAgent(folder / "agent.sock") as running:
        newer = Hello(worker=WorkerId("w"), fence=Fence(99))
        owner = await connect(running.socket, newer, Listener(), SystemClock(), timeout_s=5)
        with pytest.raises(AgentUnreachable, match="refused"):
            await link_to(running.socket, Listener())
        owner.close()


async def test_an_agent_of_another_protocol_version_is_refused(folder: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(Welcome(version=99, agent_version="1", sdk_version="1").encode() + b"\n")

    async with agent(folder / "agent.sock", serve):
        with pytest.raises(AgentUnreachable):
            await link_to(folder / "agent.sock", Listener())


async def test_lines_are_put_together_however_they_arrive(folder: Path) -> None:
    lines = [Frame(TurnId("t"), Fence(7), n, b'{"type":"x"}').encode() for n in range(1, 40)]
    stream = WELCOME + b"\n".join(lines) + b"\n"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(WELCOME)
        await reader.readline()
        for at in range(len(WELCOME), len(stream), 7):
            writer.write(stream[at : at + 7])
            await asyncio.sleep(0)

    listener = Listener()
    async with agent(folder / "agent.sock", serve):
        link = await link_to(folder / "agent.sock", listener)
        async with asyncio.timeout(10):
            while len(listener.frames) < len(lines):
                listener.heard.clear()
                await listener.heard.wait()
        link.close()
    assert listener.frames == lines


async def test_an_unknown_message_is_skipped(folder: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(WELCOME)
        await reader.readline()
        writer.write(b'{"type":"from_the_future"}\n{"type":"pong"}\n')
        await reader.read()

    listener = Listener()
    async with agent(folder / "agent.sock", serve):
        link = await link_to(folder / "agent.sock", listener)
        async with asyncio.timeout(10):
            await listener.heard.wait()
        link.close()
    assert listener.answers == [Pong()]


@pytest.mark.parametrize("said", [b"{nonsense\n", b'{"type":"welcome"}\n'])
async def test_what_is_no_message_breaks_the_link(folder: Path, said: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(WELCOME)
        await reader.readline()
        writer.write(said)
        await reader.read()

    listener = Listener()
    async with agent(folder / "agent.sock", serve):
        await link_to(folder / "agent.sock", listener)
        async with asyncio.timeout(10):
            await listener.lost.wait()


async def test_a_frame_the_listener_cannot_take_breaks_the_link(folder: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(WELCOME)
        await reader.readline()
        writer.write(b"a frame that is none\n")
        await reader.read()

    listener = Listener()
    listener.is_offended = True
    async with agent(folder / "agent.sock", serve):
        await link_to(folder / "agent.sock", listener)
        async with asyncio.timeout(10):
            await listener.lost.wait()


async def test_closing_it_ourselves_is_no_loss(folder: Path) -> None:
    listener = Listener()
    async with ScriptedAgent(folder / "agent.sock") as running:
        link = await link_to(running.socket, listener)
        link.close()
        await asyncio.sleep(0.01)
        assert not listener.lost.is_set()
        assert not link.is_open


async def test_a_paused_link_holds_the_agents_frames_back(folder: Path) -> None:
    listener = Listener()
    async with ScriptedAgent(folder / "agent.sock") as running:
        link = await link_to(running.socket, listener)
        link.pause()
        link.send(start_turn("turn_1", "echo hello"))
        await asyncio.sleep(0.05)
        assert listener.frames == []
        link.resume()
        async with asyncio.timeout(10):
            await listener.heard.wait()
        link.close()


async def heard(folder: Path, said: bytes, *, first: bytes = WELCOME) -> Listener:
    """What a listener hears of an agent that says that, until its link is lost."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        await reader.readline()
        writer.write(said)
        writer.write_eof()
        await reader.read()

    listener = Listener()
    async with agent(folder / "agent.sock", serve):
        await link_to(folder / "agent.sock", listener)
        async with asyncio.timeout(10):
            await listener.lost.wait()
    return listener


async def test_before_its_welcome_an_agent_has_few_bytes(folder: Path) -> None:
    """A line of 63 MB before the greeting stopped the worker's loop for ten seconds."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'{"type":"welcome","more":[' + b"{}," * 10_000)
        await reader.read()

    listener = Listener()
    async with agent(folder / "agent.sock", serve):
        with pytest.raises(AgentUnreachable, match="hung up"):
            await link_to(folder / "agent.sock", listener)
    assert len(listener.offences) == 1


async def test_an_answer_is_short(folder: Path) -> None:
    listener = await heard(folder, b'{"type":"pong","more":[' + b"{}," * 10_000 + b"{}]}\n")
    assert len(listener.offences) == 1
    assert listener.answers == []


async def test_transcript_entries_right_behind_the_welcome_are_heard_unparsed(folder: Path) -> None:
    """They come in one read with it: the short bound of a greeting is not theirs."""
    entries = TRANSCRIPT_HEAD + b'"seq":1,"sdk_session":"s","part":' + b"x" * 100_000
    listener = await heard(folder, b"", first=WELCOME + entries + b"\n")
    assert listener.offences == []
    assert listener.transcripts == [entries]


@pytest.mark.parametrize("said", [b'{"type":"pong"}\n', b"\n", b'{"type":"future"}\n'])
async def test_an_agent_that_chatters_without_end_loses_its_link(folder: Path, said: bytes) -> None:
    assert len((await heard(folder, said * CHATTER_MAX_LINES * 2)).offences) == 1


async def test_transcript_entries_in_another_spelling_are_no_message(folder: Path) -> None:
    said = b'{"seq":1,"type":"transcript_append","sdk_session":"s","part":{"entries":[]}}\n'
    listener = await heard(folder, said)
    assert len(listener.offences) == 1
    assert listener.answers == []


@pytest.mark.parametrize("turn", ["../../other", "a b", "a\u202eb", "x" * 200, ""])
async def test_a_welcome_names_a_turn_or_is_none(folder: Path, turn: str) -> None:
    """The name goes into the path of a request to the gateway, and into log lines."""
    raw = json.loads(WELCOME) | {"turn": turn}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(json.dumps(raw).encode() + b"\n")
        await reader.read()

    async with agent(folder / "agent.sock", serve):
        with pytest.raises(AgentUnreachable):
            await link_to(folder / "agent.sock", Listener())
