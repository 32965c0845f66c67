"""The worker's end of the link to an agent server (`infra.wire.link`).

`connect` opens the agent's socket without trusting the folder, in which the agent may write: the
name is opened without following links and must be a socket. Incoming bytes are split into lines as
they arrive (`worker.lines`) and passed to the listener in the same loop pass. Nothing waits, and
nothing is decoded except answers of a few KB. The conversation handles reconnects.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, cast

from infra.runtime.clock import Clock
from infra.wire.base import PROTOCOL_VERSION
from infra.wire.errors import AgentUnreachable, MalformedMessage, UnknownMessage
from infra.wire.frames import is_frame
from infra.wire.link import (
    TRANSCRIPT_HEAD,
    TRANSCRIPT_LINE_MAX_BYTES,
    Answer,
    Command,
    Hello,
    Ping,
    Refused,
    TranscriptAppend,
    Welcome,
    decode_answer,
)
from infra.wire.text.foreign import foreign
from worker.lines import HeldLines, LineCutter, check_length

CHATTER_WINDOW_S = 10.0
CHATTER_MAX_LINES = 2_000
CHATTER_MAX_BYTES = 4 * TRANSCRIPT_LINE_MAX_BYTES
"""What an agent may send per time window besides the frames of its turn. An honest one only
answers, and has one message of transcript entries outstanding."""


class LinkListener(Protocol):
    """Receives what an agent sends. Called from the loop; must not block."""

    def on_frame(self, line: bytes) -> None:
        """An encoded frame. May raise `MalformedMessage`; then the link is dropped."""
        ...

    def on_answer(self, answer: Answer) -> None:
        """Any other message of the agent after its welcome."""
        ...

    def on_transcript(self, line: bytes) -> None:
        """An unparsed line that begins like a `TranscriptAppend`; a `CutLine` if it was too
        long."""
        ...

    def on_offence(self, error: MalformedMessage) -> None:
        """The agent sent something that is not a message, or too much; the link is dropped."""
        ...

    def on_unknown(self, unknown: UnknownMessage) -> None:
        """The agent sent a message that this version does not know, which was skipped."""
        ...

    def on_link_lost(self) -> None:
        """The link is gone, and we did not close it."""
        ...


class _Chatter:
    """Counts what an agent sends besides frames."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since_s = clock.monotonic()
        self._lines = 0
        self._bytes = 0

    def count(self, size_bytes: int) -> None:
        """Raises `MalformedMessage` if it is too much for the time."""
        self._lines += 1
        self._bytes += size_bytes
        if self._lines <= CHATTER_MAX_LINES and self._bytes <= CHATTER_MAX_BYTES:
            return
        if (now_s := self._clock.monotonic()) - self._since_s < CHATTER_WINDOW_S:
            raise MalformedMessage("it says too much that is no event of a turn")
        self._since_s, self._lines, self._bytes = now_s, 0, 0


class AgentLink(asyncio.Protocol):
    """One connection to an agent server, after its welcome."""

    welcome: Welcome

    def __init__(
        self, listener: LinkListener, clock: Clock, *, held: HeldLines | None = None
    ) -> None:
        """`held` limits the long lines of all links that share it."""
        self._listener = listener
        self._clock = clock
        self._transport: asyncio.Transport | None = None
        self._lines = LineCutter(self, held or HeldLines())
        self._chatter = _Chatter(clock)
        self._greeting: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._is_closing = False
        self._is_welcome = False
        self._is_paused = False
        self.heard_s = self._clock.monotonic()
        """When the agent last sent anything, by the monotonic clock."""

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._is_closing

    def send(self, command: Command) -> None:
        """Send a message. On a broken link it is dropped, and sent again after the reconnect."""
        self.send_line(command.encode())

    def send_line(self, line: bytes) -> None:
        """The same for an encoded command."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(line + b"\n")

    def ping(self) -> None:
        self.send(Ping())

    def pause(self) -> None:
        """Stop reading: the agent keeps its events until `resume`."""
        if self._transport and not self._is_paused and not self._transport.is_closing():
            self._is_paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport and self._is_paused and not self._transport.is_closing():
            self._is_paused = False
            self.heard_s = self._clock.monotonic()
            self._transport.resume_reading()

    @property
    def is_paused(self) -> bool:
        return self._is_paused

    def close(self) -> None:
        """Close the link. Messages sent before still go out. The listener is not called."""
        self._is_closing = True
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Drop the link as broken; the listener is called."""
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.heard_s = self._clock.monotonic()
        try:
            for line in self._lines.feed(data):
                self._take(line)
        except MalformedMessage as error:
            self._offended(error)

    def drop_line(self) -> None:
        """See `LineHolder`: the line may fit when it is sent again over the next link."""
        self._offended(MalformedMessage("its long line was dropped: all agents' are too much"))

    def _offended(self, error: MalformedMessage) -> None:
        self._lines.drop()
        self._listener.on_offence(error)
        self.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._lines.drop()
        if not self._greeting.done():
            self._greeting.set_exception(AgentUnreachable("the agent hung up on the greeting"))
            self._greeting.exception()  # Perhaps nobody waits for it any longer.
        if self._is_welcome and not self._is_closing:
            self._listener.on_link_lost()

    # Greeting

    async def greet(self, hello: Hello) -> None:
        """Send hello and wait for the welcome. Raises `AgentUnreachable`."""
        self.send(hello)
        answer = await self._greeting
        if isinstance(answer, Refused):
            raise AgentUnreachable(f"the agent refused us: {answer.code} {foreign(answer.message)}")
        if not self._is_welcome:
            raise AgentUnreachable(f"the agent greeted us with a {answer.type}")

    def _take(self, line: bytes) -> None:
        # A frame begins with its turn. A frame before our welcome belongs to another connection.
        if self._is_welcome and line and is_frame(line):
            self._listener.on_frame(line)
            return
        self._chatter.count(len(line))
        if not line or is_frame(line):
            return
        if self._is_welcome and line.startswith(TRANSCRIPT_HEAD):
            self._listener.on_transcript(line)
            return
        check_length(line, is_greeted=self._is_welcome)
        try:
            answer = decode_answer(line)
        except UnknownMessage as error:
            self._listener.on_unknown(error)
            return
        self._hear(answer)

    def _hear(self, answer: Answer) -> None:
        if isinstance(answer, TranscriptAppend):
            raise MalformedMessage("transcript entries in another spelling, or before the welcome")
        if not self._greeting.done():
            if isinstance(answer, Welcome) and answer.version == PROTOCOL_VERSION:
                self.welcome = answer
                self._is_welcome = self._lines.is_greeted = True
            self._greeting.set_result(answer)
        elif not self._greeting.cancelled():
            self._listener.on_answer(answer)


async def connect(
    path: Path,
    hello: Hello,
    listener: LinkListener,
    clock: Clock,
    *,
    timeout_s: float,
    held: HeldLines | None = None,
) -> AgentLink:
    """A link to the agent server at `path`, after its welcome. Raises `AgentUnreachable`."""
    loop = asyncio.get_running_loop()
    link: AgentLink | None = None
    try:
        async with asyncio.timeout(timeout_s):
            connection = await _open(path)
            try:
                _, link = await loop.create_unix_connection(
                    lambda: AgentLink(listener, clock, held=held), sock=connection
                )
            except BaseException:
                connection.close()
                raise
            await link.greet(hello)
            return link
    except (OSError, TimeoutError) as error:
        raise AgentUnreachable(f"the agent's socket does not answer: {error!r}") from error
    finally:
        if link is not None and not link._is_welcome:
            link.close()


async def _open(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.setblocking(False)
    try:
        with _safe_name(path) as name:
            await asyncio.get_running_loop().sock_connect(connection, name)
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def _safe_name(path: Path) -> Iterator[str]:
    """A name for the socket that cannot be swapped for a link between check and use."""
    if not hasattr(os, "O_PATH"):  # pragma: no cover - not Linux: the best it offers
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise AgentUnreachable(f"{path.name} is not a socket")
        yield str(path)
        return
    handle = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISSOCK(os.fstat(handle).st_mode):
            raise AgentUnreachable(f"{path.name} is not a socket")
        yield f"/proc/self/fd/{handle}"
    finally:
        os.close(handle)
