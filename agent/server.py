"""The agent's side of the worker-agent protocol (`infra.wire.link`), over a Unix socket.

It knows turns, fences and frames, and nothing of the SDK. An `AgentSession` runs the turns, one
after the other, in one task; `Transcripts` keeps the entries to be stored. One worker is connected
at a time. The agent continues without a worker, but not forever, because then nobody could stop it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from agent.log_lines import running
from agent.memory.transcripts import Transcripts
from agent.turn import AgentSession, RunningTurn
from infra.wire.agents.delegation import DelegateAnswered, DelegateDid
from infra.wire.base import PROTOCOL_VERSION
from infra.wire.endings import declared_end, interrupted_end
from infra.wire.errors import ErrorCode, MalformedMessage, UnknownMessage
from infra.wire.events import TurnEnded
from infra.wire.frames import Frame
from infra.wire.ids import Fence, TurnId
from infra.wire.link import (
    LINE_MAX_BYTES,
    RESTRICTIONS,
    Ack,
    AgentSettings,
    Answer,
    Close,
    Command,
    Hello,
    Interrupt,
    InterruptReason,
    Ping,
    Pong,
    Prepare,
    Prepared,
    Refused,
    Replay,
    StartTurn,
    TranscriptStored,
    Welcome,
    decode_command,
)

log = logging.getLogger(__name__)

HELLO_TIMEOUT_S = 10.0
"""A connection that has not sent `Hello` by then is closed."""

WRITE_HIGH_BYTES = 256 * 1024
"""With more bytes than this in the socket's buffer, the worker is behind, and frames stay in the
outbox, where deltas are joined."""

FIRST_HELLO_S = 600.0
"""Until the first worker has set how long the agent may be alone."""

OpenSession = Callable[[asyncio.TaskGroup], Awaitable[AgentSession]]
"""Creates the session. Tasks that it needs outside a turn run in the group."""


class LinkServer:
    """Listens, checks fences, runs turns one at a time, and sends their frames to the owner."""

    def __init__(
        self,
        open_session: OpenSession,
        *,
        transcripts: Transcripts,
        agent_version: str,
        sdk_version: str,
        alone_s: float = FIRST_HELLO_S,
    ) -> None:
        """`open_session` is awaited once, after listening has started, so it may be slow."""
        self._alone_s = alone_s
        self._heard_s = 0.0
        self._greeted = asyncio.Event()
        self._open_session = open_session
        self._transcripts = transcripts
        self._agent_version = agent_version
        self._sdk_version = sdk_version
        self._session: AgentSession | None = None
        self._fence = Fence(0)
        self._link: _Link | None = None
        self._turn: RunningTurn | None = None
        self._just_ended: TurnId | None = None
        self._starts: asyncio.Queue[RunningTurn | AgentSettings] = asyncio.Queue()
        """Turns to run, or settings to be ready for."""
        self._links: set[_Link] = set()
        self._closing = asyncio.Event()
        self.listening = asyncio.Event()

    async def serve(self, socket: Path) -> None:
        """Serve until `close` or a `Close` command. Then the session is closed and the socket
        removed."""
        async with asyncio.TaskGroup() as group:

            def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                link = _Link(reader, writer)
                self._links.add(link)
                group.create_task(self._serve_link(link))

            server = await asyncio.start_unix_server(accept, path=socket, limit=LINE_MAX_BYTES)
            runner = group.create_task(self._run_turns(group))
            company = group.create_task(self._watch_company())
            self.listening.set()
            try:
                await self._closing.wait()
            finally:
                server.close()
                self._hang_up(socket)
                runner.cancel()
                company.cancel()

    async def _watch_company(self) -> None:
        """Exit if no worker has sent anything for too long, because containers outlive their
        workers."""
        loop = asyncio.get_running_loop()
        self._heard_s = loop.time()
        while (left_s := self._heard_s + self._alone_s - loop.time()) > 0:
            self._greeted.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._greeted.wait()  # A worker may set another time.
        log.warning("no worker has spoken for %g s: leaving", self._alone_s)
        self.close()

    def close(self) -> None:
        """Exit. `serve` returns when the session has ended."""
        self._closing.set()

    def tell(self, answer: Answer) -> None:
        """Send a message to the worker. Without one it is lost."""
        if self._link is not None:
            self._link.answer(answer)

    def _hang_up(self, socket: Path) -> None:
        socket.unlink(missing_ok=True)
        for link in self._links:
            link.abort()

    # Turns: one task runs them and closes the session.

    async def _run_turns(self, group: asyncio.TaskGroup) -> None:
        session = self._session = await self._open_session(group)
        try:
            while True:
                match await self._starts.get():
                    case RunningTurn() as turn:
                        running.turn = turn.start.turn
                        self._end(turn, await _run_guarded(session, turn))
                        running.turn = None
                    case settings:
                        self._tell_prepared(await session.prepare(settings))
        finally:
            await session.aclose()

    def _tell_prepared(self, is_ready: bool) -> None:
        if self._link is None:
            return
        if is_ready:
            self._link.answer(Prepared())
        else:
            _refuse(self._link, "no CLI came up", code=ErrorCode.AGENT_FAILED)

    def _end(self, turn: RunningTurn, ended: TurnEnded) -> None:
        if turn.outbox.is_ended:
            return
        self._just_ended = turn.start.turn
        turn.outbox.end(ended.model_copy(update={"heads": turn.answer.heads}))
        log.info("turn ended: %s", ended.state)

    # Links: any number may be open, but only one is the worker's.

    async def _serve_link(self, link: _Link) -> None:
        try:
            if await self._greet(link):
                async with asyncio.TaskGroup() as group:
                    pump = group.create_task(link.pump())
                    while (command := await link.read()) is not None:
                        if not self._obey(link, command):
                            break
                    pump.cancel()
        except* MalformedMessage as trouble:
            _refuse(link, str(trouble.exceptions[0]))
        except* OSError:
            log.info("the worker's end of the link is gone")
        finally:
            self._transcripts.detach(link.answer)
            self._links.discard(link)
            if self._link is link:
                self._link = None
            link.close()

    async def _greet(self, link: _Link) -> bool:
        """Answer the hello. False if the link is refused."""
        try:
            async with asyncio.timeout(HELLO_TIMEOUT_S):
                hello = await link.read()
        except TimeoutError:
            hello = None
        if not isinstance(hello, Hello):
            return _refuse(link, "a link begins with a hello")
        if hello.version != PROTOCOL_VERSION:
            return _refuse(link, f"version {PROTOCOL_VERSION} is spoken here, not {hello.version}")
        if hello.fence < self._fence:
            return _refuse(link, f"fence {hello.fence} is older than {self._fence}")
        self._fence = hello.fence
        self._alone_s, self._heard_s = hello.alone_s, asyncio.get_running_loop().time()
        self._greeted.set()
        link.fence = hello.fence
        if self._link is not None:
            self._link.abort()
        self._link = link
        log.info("worker %s connected, fence %d", hello.worker, hello.fence)
        link.answer(self._welcome())
        self._transcripts.attach(link.answer)
        return True

    def _welcome(self) -> Welcome:
        turn = self._open_turn()
        return Welcome(
            restores=True,
            knows=RESTRICTIONS,
            agent_version=self._agent_version,
            sdk_version=self._sdk_version,
            sdk_session=self._session.sdk_session if self._session else None,
            turn=turn.start.turn if turn else None,
            last_n=turn.outbox.last_n if turn else 0,
        )

    def _open_turn(self) -> RunningTurn | None:
        """The turn that runs, or whose end is not acknowledged."""
        if self._turn is not None and self._turn.outbox.is_settled:
            self._turn = None
        return self._turn

    def _obey(self, link: _Link, command: Command) -> bool:
        """Carry out a command. False if the link has to be closed."""
        if link is not self._link:
            # A newer owner has said hello. This command was sent before and remained in the buffer.
            return False
        self._heard_s = asyncio.get_running_loop().time()
        match command:
            case Ping():
                link.answer(Pong())
            case Prepare(settings=settings):
                if self._turn is not None:
                    _refuse(link, "only a spare is prepared, and this agent has had a turn")
                else:
                    self._starts.put_nowait(settings)
            case StartTurn():
                self._start(link, command)
            case Replay(turn=id, after=after):
                turn = self._turn_named(id)
                if turn is None:
                    _refuse(link, "no such turn here", code=ErrorCode.TURN_NOT_FOUND, turn=id)
                elif after < turn.outbox.acked_n:
                    # The log had these frames and lost them, and they were dropped here.
                    told = f"frames up to {turn.outbox.acked_n} are forgotten"
                    _refuse(link, told, code=ErrorCode.LOG_LOST, turn=id)
                else:
                    link.follow(turn, after=after)
                    self._ask_again(link, turn)
            case DelegateDid(turn=id) | DelegateAnswered(turn=id):
                if (turn := self._turn_named(id)) and turn.calls is not None:
                    turn.calls.take(command)
            case Ack(turn=id, n=n):
                if turn := self._turn_named(id):
                    turn.outbox.ack(n)
            case Interrupt(turn=id, reason=reason):
                if (turn := self._turn_named(id)) and not turn.outbox.is_ended:
                    self._interrupt(turn, reason)
            case TranscriptStored(seq=seq):
                self._transcripts.stored(seq)
            case Close():
                self.close()
                return False
            case Hello():
                return _refuse(link, "hello was said already")
        return True

    def _ask_again(self, link: _Link, turn: RunningTurn) -> None:
        """Another worker, or another link, may not know what was asked over the one before."""
        for ask in turn.calls.unanswered if turn.calls is not None else ():
            link.answer(ask)

    def _interrupt(self, turn: RunningTurn, reason: InterruptReason) -> None:
        """Interrupt the turn. One that waits for the session to open ends at once.

        Opening may take long on a busy machine. The turn is still run later, and produces nothing,
        so the request is remembered.
        """
        turn.interrupt(reason)
        if self._session is None:
            self._end(turn, interrupted_end(reason))

    def _turn_named(self, id: TurnId) -> RunningTurn | None:
        turn = self._open_turn()
        return turn if turn is not None and turn.start.turn == id else None

    def _start(self, link: _Link, start: StartTurn) -> None:
        turn = self._open_turn()
        if start.turn == self._just_ended or (turn and turn.start.turn == start.turn):
            return
        if turn is not None and not turn.outbox.is_ended:
            _refuse(link, f"turn {turn.start.turn} is running", turn=start.turn)
            return
        # Nobody acknowledged the end of this turn. Its owner has moved on, so its log is closed.
        self._turn = RunningTurn(start)
        link.follow(self._turn, after=0)
        self._starts.put_nowait(self._turn)


async def _run_guarded(session: AgentSession, turn: RunningTurn) -> TurnEnded:
    """Run a turn so that its failure stays its own: whatever happens, the turn gets an end."""
    try:
        return await session.run(turn)
    except Exception:  # Our own bugs must cost the turn, not the conversation.
        log.exception("turn broke")
        return declared_end(ErrorCode.AGENT_FAILED)


def _refuse(
    link: _Link,
    message: str,
    *,
    code: ErrorCode = ErrorCode.INVALID_REQUEST,
    turn: TurnId | None = None,
) -> bool:
    log.warning("refused: %s", message)
    link.answer(Refused(code=code, message=message, turn=turn))
    return False


class _Link:
    """One connection: commands in; answers and the followed turn's frames out."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.fence = Fence(0)
        self._reader = reader
        self._writer = writer
        self._writer.transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        self._turn: RunningTurn | None = None
        self._sent_n = 0
        self._behind = asyncio.Event()

    async def read(self) -> Command | None:
        """The worker's next command; None if it closed the link.

        Raises `MalformedMessage` or `OSError`. Unknown types are skipped, because a newer worker
        may know more types.
        """
        while line := await self._read_line():
            try:
                return decode_command(line)
            except UnknownMessage as unknown:
                log.warning("skipped: %s", unknown)
        return None

    async def _read_line(self) -> bytes:
        try:
            return await self._reader.readline()
        except ValueError as error:
            raise MalformedMessage(f"a line longer than {LINE_MAX_BYTES} bytes") from error

    def answer(self, answer: Answer) -> None:
        """Send a message, in order with the frames."""
        if not self._writer.is_closing():
            self._writer.write(answer.encode() + b"\n")

    def follow(self, turn: RunningTurn, *, after: int) -> None:
        """Send the turn's frames after that number, and further ones as they come."""
        self._unfollow()
        self._turn = turn
        self._sent_n = max(after, turn.outbox.acked_n)
        turn.outbox.attach(self.push)
        self.push()

    def push(self) -> None:
        """Write as many waiting frames as the socket accepts, at once: a delta never waits for a
        timer."""
        turn, transport = self._turn, self._writer.transport
        if turn is None or transport.is_closing():
            return
        while self._sent_n < turn.outbox.last_n:
            if transport.get_write_buffer_size() > WRITE_HIGH_BYTES:
                self._behind.set()
                return
            self._sent_n = max(self._sent_n, turn.outbox.acked_n) + 1
            if (payload := turn.outbox.take(self._sent_n)) is not None:
                frame = Frame(turn.start.turn, self.fence, self._sent_n, payload)
                transport.write(frame.encode() + b"\n")

    async def pump(self) -> None:
        """Send what remains whenever a full socket has room again. Never returns."""
        while True:
            await self._behind.wait()
            self._behind.clear()
            await self._writer.drain()
            self.push()

    def close(self) -> None:
        """Close the link. Data that was already written is still sent."""
        self._unfollow()
        self._writer.close()

    def abort(self) -> None:
        """Close at once, because the peer is no longer the owner."""
        self._unfollow()
        self._writer.transport.abort()

    def _unfollow(self) -> None:
        if self._turn is not None:
            self._turn.outbox.detach(self.push)
            self._turn = None
