"""One connection for a process's commands; all of one pass of the loop leave in one write.

redis-py takes a connection from its pool, sets a timer and wakes a task for each command, which
costs four times as much as the command itself. Here replies come in the order of the commands, so a
queue of futures is all that is needed, and one timer watches the oldest. redis-py still makes the
connection: TLS, credentials, client name and the search for the primary are its and ours as for the
pool. Then this takes its transport over.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import hiredis
from redis._parsers.base import BaseParser
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, NoScriptError, ReadOnlyError
from redis.exceptions import TimeoutError as RedisTimeoutError

from infra.metrics.store import CALLS, CONNECTIONS_LOST, FAILURES
from infra.store.server.commands import Command, CommandRunner
from infra.store.server.faults import FAULTS, delays
from infra.store.server.sentinels import PrimaryConnection

BIG_BYTES = 64 * 1024
"""A larger command goes over the pool: everything behind it would wait while it is sent."""
HELD_MAX_BYTES = 32 * 1024 * 1024
"""Of commands that wait for their reply. More are refused, so a slow Redis fills no memory."""
LOSSES_MAX = 2
"""How often a command may lose its connection, or not get one, before it fails."""
_NOTHING = object()


class PipelinedCommands:
    """Runs commands in the order in which they are asked, over one connection.

    The connection is made when it is first needed, and again when it is lost; every command may
    therefore run twice, as ours all may. A command fails after `timeout_s` (seconds, connecting
    included), and then the connection is given up, because its other end may be gone. If the server
    has become a replica, the connection is renewed and the commands are sent again.
    """

    def __init__(
        self,
        make: Callable[[], AbstractConnection],
        *,
        timeout_s: float,
        big: CommandRunner,
        held_max_bytes: int = HELD_MAX_BYTES,
    ) -> None:
        """`make` makes an unconnected connection; `big` runs commands that are too long for this
        one."""
        self._make = make
        self._timeout_s = timeout_s
        self._big = big
        self._held_max_bytes = held_max_bytes
        self._held_bytes = 0
        self._unsent: deque[_Request] = deque()
        self._sent: deque[_Request] = deque()
        self._link: _Link | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._pauses: Iterator[float] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._will_send = False
        self._is_closed = False

    async def run(self, *command: str | bytes | int) -> Any:
        """The reply. A cancelled caller leaves its command to run."""
        packed = _packed(command)
        if len(packed) > BIG_BYTES:
            return await self._big.run(*command)
        self._check_room(len(packed))
        request = self._new(packed)
        self._unsent.append(request)
        return await request.answer

    async def run_first(self, commands: Sequence[Command]) -> Sequence[Any]:
        """The replies. The commands may be of any length. They leave at once, not when the pass is
        over."""
        packed = [_packed(command) for command in commands]
        self._check_room(sum(map(len, packed)))
        requests = [self._new(one) for one in packed]
        self._unsent.extendleft(reversed(requests))
        self._send()
        if len(requests) == 1:
            return [await requests[0].answer]  # The usual case; gathering costs more than sending.
        return await asyncio.gather(*(request.answer for request in requests))

    async def aclose(self) -> None:
        """Fail what waits, close the connection, and refuse further commands."""
        self._is_closed = True
        if self._connecting is not None:
            self._connecting.cancel()
        if self._timer is not None:
            self._timer.cancel()
        self._let_go()
        for request in self._take_all():
            request.fail(RedisConnectionError("the client is closed"))

    def _check_room(self, size_bytes: int) -> None:
        if self._is_closed:
            raise RedisConnectionError("the client is closed")
        if self._held_bytes + size_bytes > self._held_max_bytes:
            raise RedisConnectionError("too much waits for Redis")

    def _new(self, packed: bytes) -> _Request:
        """A request that is about to join the unsent ones, and counts from now on."""
        loop = asyncio.get_running_loop()
        request = _Request(packed, loop.create_future(), loop.time() + self._timeout_s)
        self._held_bytes += len(packed)
        if self._timer is None:
            self._timer = loop.call_at(request.due_s, self._look_at_oldest)
        if not self._will_send:
            self._will_send = True
            loop.call_soon(self._send_all)
        return request

    def _send_all(self) -> None:
        self._will_send = False
        self._send()

    def _send(self) -> None:
        link = self._link
        if link is None:
            self._connect_soon()
        elif not link.is_paused:
            self._forget_given_up()
            leaving, self._unsent = self._unsent, deque()
            self._sent.extend(leaving)
            link.write(b"".join([request.packed for request in leaving]))

    def _forget_given_up(self) -> None:
        """Unsent requests that nobody waits for any longer are not sent."""
        for request in [request for request in self._unsent if request.answer.done()]:
            self._unsent.remove(request)
            self._held_bytes -= len(request.packed)

    def _take_all(self) -> Iterable[_Request]:
        taken = (*self._sent, *self._unsent)
        self._sent.clear()
        self._unsent.clear()
        self._held_bytes = 0
        return taken

    def on_reply(self, link: _Link, reply: Any) -> None:
        """The oldest request is answered, unless the connection was given up."""
        if link is not self._link:
            return
        if not self._sent:
            raise InvalidResponse("a reply that nobody asked for")
        request = self._sent[0]
        if isinstance(reply, ReadOnlyError) and request.losses < LOSSES_MAX:
            self.on_lost(link, reply)
            return
        self._sent.popleft()
        self._pauses = None
        self._held_bytes -= len(request.packed)
        self._count(request, reply)
        request.settle(reply)

    def _count(self, request: _Request, reply: Any) -> None:
        CALLS.observe(time.perf_counter() - request.asked_s)
        if isinstance(reply, Exception) and not isinstance(reply, NoScriptError):
            FAILURES.labels("other").inc()

    def on_room(self) -> None:
        """The transport takes more."""
        self._send()

    def on_lost(self, link: _Link | None, error: Exception | None) -> None:
        """A connection is lost: what it has not answered is sent again on the next one."""
        if link is None or link is not self._link:
            return
        CONNECTIONS_LOST.inc()
        self._let_go(is_doubtful=isinstance(error, ReadOnlyError))
        lost, self._sent = self._sent, deque()
        self._unsent.extendleft(reversed(lost))
        self._lose(lost, error or RedisConnectionError("Connection closed by server."))

    def _let_go(self, *, is_doubtful: bool = False) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close(is_doubtful=is_doubtful)

    def _lose(self, requests: Iterable[_Request], error: Exception) -> None:
        """These requests were sent or would have been: some have lost too often."""
        for request in requests:
            request.losses += 1
            if request.losses > LOSSES_MAX:
                FAILURES.labels("lost").inc()
                request.fail(_loss(error))
        self._forget_given_up()
        self._pauses = self._pauses or delays(first_s=0.02, most_s=0.2)
        self._connect_soon()

    def _connect_soon(self) -> None:
        if not self._unsent or self._is_closed:
            return
        if self._connecting is None or self._connecting.done():
            # A task of its own, because every caller may be cancelled while others wait too.
            self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        while self._unsent and self._link is None:
            if self._pauses is not None:
                await asyncio.sleep(next(self._pauses))
            connection = self._make()
            try:
                await connection.connect()  # type: ignore[no-untyped-call]
                self._link = _Link(connection, self)
            except FAULTS as error:
                self._lose([*self._unsent], error)
        self._send()

    def _look_at_oldest(self) -> None:
        """Some command may be due: fail those that are."""
        self._timer = None
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        overdue = [r for r in chain(self._sent, self._unsent) if r.due_s <= now_s]
        is_silent = any(request.due_s <= now_s for request in self._sent)
        for request in overdue:
            FAILURES.labels("late").inc()
            request.fail(RedisTimeoutError(f"no answer within {self._timeout_s:g} s"))
        if is_silent:
            self.on_lost(self._link, RedisConnectionError("Redis is silent"))
        self._forget_given_up()
        if waiting := [r.due_s for r in chain(self._sent, self._unsent)]:
            self._timer = loop.call_at(min(waiting), self._look_at_oldest)


class _Request:
    """A command on its way."""

    __slots__ = ("answer", "asked_s", "due_s", "losses", "packed")

    def __init__(self, packed: bytes, answer: asyncio.Future[Any], due_s: float) -> None:
        self.packed = packed
        self.answer = answer
        self.due_s = due_s
        # The clock of the loop may be as coarse as a millisecond.
        self.asked_s = time.perf_counter()
        self.losses = 0

    def settle(self, reply: Any) -> None:
        """Its caller may have been cancelled."""
        if self.answer.done():
            return
        if isinstance(reply, Exception):
            self.answer.set_exception(reply)
        else:
            self.answer.set_result(reply)

    def fail(self, error: Exception) -> None:
        self.settle(error)


class _Link(asyncio.Protocol):
    """A connection that redis-py has made, from then on."""

    def __init__(self, connection: AbstractConnection, commands: PipelinedCommands) -> None:
        """Raises `RedisConnectionError` if it is lost already."""
        self.is_paused = False
        self._connection = connection
        self._commands = commands
        self._replies = hiredis.Reader(
            protocolError=InvalidResponse,
            replyError=BaseParser.parse_error,
            notEnoughData=_NOTHING,
        )
        assert connection._writer is not None
        self._transport: asyncio.WriteTransport = connection._writer.transport
        self._transport.set_protocol(self)
        if self._transport.is_closing():
            raise RedisConnectionError("Connection closed by server.")

    def write(self, packed: bytes) -> None:
        """Send commands."""
        if packed:
            self._transport.write(packed)

    def close(self, *, is_doubtful: bool) -> None:
        """Drop the connection at once; its server may not be the primary."""
        if is_doubtful and isinstance(self._connection, PrimaryConnection):
            self._connection.doubt()
        self._transport.abort()
        self._connection._close()  # type: ignore[no-untyped-call]

    def data_received(self, data: bytes) -> None:
        try:
            self._replies.feed(data)
            while (reply := self._replies.gets()) is not _NOTHING:
                self._commands.on_reply(self, reply)
        except InvalidResponse as error:
            self._commands.on_lost(self, error)

    def pause_writing(self) -> None:
        self.is_paused = True

    def resume_writing(self) -> None:
        self.is_paused = False
        self._commands.on_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._commands.on_lost(self, exc)


def _packed(command: Command) -> bytes:
    packed: bytes = hiredis.pack_command(tuple(command))  # type: ignore[arg-type]
    return packed


def _loss(error: Exception) -> Exception:
    """An error of its own for each caller, because raising changes it."""
    lost = RedisConnectionError(str(error))
    lost.__cause__ = error
    return lost
