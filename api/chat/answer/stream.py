"""A streamed answer: events, client, keep-alive and shutdown; the first to end stops all.

Differences from `EventSourceResponse`, on purpose:
- It runs four tasks per stream and a cancel scope per event: 60 KiB per idle stream and more than
  half of the cost of a delta. Here there is the request's own task, to which the connection tells
  when the client disconnects; the relay's wait ends in time for the next ping, and one timer per
  stream detects a stuck reader.
- Bytes are sent as they are, joined per pass of the loop.
- Deltas that simply continue the text are written where they arrive, without waking the stream's
  task (`Relay.push_to`, `ClientConnection.push`). The task does everything else: tools, ends,
  pings, gaps, and all that comes while the client reads too slowly.
- The 200 waits for the first event that settles the outcome (or `commit_after_s`), so that an early
  failure keeps its own status. Pings start after that.
- `api.http.drain` tells the relay about a shutdown, and the relay ends the stream with a clean
  error. The library would cut every stream within half a second of SIGTERM, without an end mark.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType

from sse_starlette.sse import EventSourceResponse
from starlette.types import Receive, Scope, Send

from api.chat.answer.chunks import ChunkFrames
from api.http.client import ClientConnection, connection_of
from api.http.disconnect import HungUp, while_connected
from api.http.edge import BEGAN
from api.turns.following.open_answer import OpenAnswer
from api.turns.shown.channels import is_sight, read_end
from infra.metrics.api import ERRORS, FIRST_DELTA_SECONDS, STUCK
from infra.runtime.clock import Clock
from infra.runtime.logs import fields
from infra.runtime.settings import QueueDisplay
from infra.wire.errors import AgClusterError
from infra.wire.events import is_delta, is_end

log = logging.getLogger(__name__)

HEADERS = {"cache-control": "no-cache, no-store", "x-accel-buffering": "no"}


class _Nothing(AsyncIterator[bytes]):
    """The library needs an iterator; the relay is read directly. One for all streams."""

    async def __anext__(self) -> bytes:
        raise StopAsyncIteration


_NOTHING = _Nothing()


class SlowConsumer(HungUp):
    """The client is connected but has read nothing for the send timeout."""


class ChatStream(EventSourceResponse):
    """The answer to `stream: true`. It owns the open answer and leaves it, whatever happens.

    Raises the turn's failure as long as the 200 was not sent.
    """

    def __init__(
        self,
        turn: OpenAnswer,
        frames: ChunkFrames,
        *,
        clock: Clock,
        headers: dict[str, str],
        commit_after_s: float,
        ping_interval_s: float,
        send_timeout_s: float,
        queue_display: QueueDisplay = QueueDisplay.OFF,
    ) -> None:
        super().__init__(_NOTHING, headers=HEADERS | headers, ping=ping_interval_s)
        # The server sends this header: the library's would be a duplicate.
        del self.headers["connection"]
        self._turn = turn
        self._frames = frames
        self._clock = clock
        self._commit_after_s = commit_after_s
        self._ping_interval_s = ping_interval_s
        self._connection: ClientConnection | None = None
        self._asked_s: float | None = None
        """When it was asked for, until its first delta."""
        self._stall = _StallTimer(send_timeout_s, self._is_clogged)
        self._written_s = 0.0
        self._queue_display = queue_display
        self._told_ahead: int | None = None
        turn.relay.is_place_wanted = queue_display is not QueueDisplay.OFF

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_hung_up = True
        self._connection = connection_of(scope)
        if not self._turn.relay.cursor:  # Not for a client that reads on.
            self._asked_s = scope.get("state", {}).get(BEGAN)
        try:
            await while_connected(scope, receive, self._stream(send))
            has_hung_up = False
        except SlowConsumer:
            STUCK.inc()
            log.warning("client reads nothing; dropped", extra=fields(turn=self._turn.id))
        except HungUp:
            log.debug("client left", extra=fields(turn=self._turn.id))
        except AgClusterError:
            has_hung_up = False
            raise
        finally:
            self._turn.leave(hung_up=has_hung_up)

    async def _stream(self, send: Send) -> None:
        after = self._turn.relay.cursor
        held = await self._until_settled()
        last = held[-1] if held and is_end(held[-1]) else None
        if last is not None and not any(map(is_sight, held[:-1])):
            read_end(last)  # Raises for a turn that failed before its first output.
        async with self._stall:
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            self._note_first(held)
            body = self._frames.first(after) + self._frames.render(held, after + 1)
            if not held:
                body = self._frames.ping + body  # It waits, and says so from the beginning.
                if self._turn.relay.ahead is not None:
                    body += self._silence()
            try:
                if last is None:
                    await self._push(send, body)
                    body = b""
                    body, last = await self._relay(send)
                end = read_end(last)
            except HungUp:
                raise
            except AgClusterError as error:
                code = error.code.value
                log.info("stream failed", extra=fields(turn=self._turn.id, code=code))
                ERRORS.labels(code).inc()
                body += self._frames.failure(error, self._turn.id, self._turn.relay.cursor)
            else:
                body += self._frames.last(end, self._turn.relay.cursor)
            await self._turn.answered()
            await self._push(send, body, more=False)
        if self._turn.relay.is_ended:  # Otherwise we failed, not the turn: it can still be read.
            self._turn.delivered()

    async def _until_settled(self) -> list[bytes]:
        """The first events: up to one that settles the outcome, or those within
        `commit_after_s`."""
        held: list[bytes] = []
        relay, clock = self._turn.relay, self._clock
        until_s = clock.monotonic() + self._commit_after_s
        while True:
            events = await relay.next(until_s=until_s)
            held += events
            if any(map(is_sight, events)) or (not events and clock.monotonic() >= until_s):
                return held

    async def _relay(self, send: Send) -> tuple[bytes, bytes]:
        """Send everything up to the end event. Returns the bytes to send together with it, and the
        event."""
        relay = self._turn.relay
        relay.push_to(self._push_now)
        try:
            while True:
                events = await relay.next(until_s=self._ping_at_s)
                self._note_first(events)
                if not events and relay.ahead is None and self._clock.monotonic() < self._ping_at_s:
                    continue  # Something was pushed meanwhile.
                first = relay.cursor - len(events) + 1
                body = self._frames.render(events, first) if events else self._silence()
                if events and is_end(events[-1]):
                    return body, events[-1]
                if body:
                    await self._push(send, body)
        finally:
            relay.push_to(None)

    @property
    def _ping_at_s(self) -> float:
        """When the next ping is due, unless something else is written before."""
        return self._written_s + self._ping_interval_s

    def _push_now(self, events: Sequence[bytes], first: int) -> bool:
        """Write these events, if that needs no waiting and no thinking (`Relay.push_to`)."""
        if self._connection is None or self._connection.is_clogged:
            return False
        body = self._frames.render_plain(events, first)
        if body is None:
            return False
        if body and not self._connection.push(body):
            return False
        if body:
            self._written_s = self._clock.monotonic()
            self._stall.end()
        self._note_first(events)
        return True

    def _note_first(self, events: Sequence[bytes]) -> None:
        if self._asked_s is not None and any(map(is_delta, events)):
            FIRST_DELTA_SECONDS.observe(time.perf_counter() - self._asked_s)
            self._asked_s = None

    def _is_clogged(self) -> bool:
        return self._connection is not None and self._connection.is_clogged

    def _silence(self) -> bytes:
        """What is sent during silence: the place in the queue, otherwise a ping."""
        ahead = self._turn.relay.ahead
        if ahead is None:
            return self._frames.ping
        if self._queue_display is QueueDisplay.COMMENT:
            return self._frames.queue_comment(ahead)
        if ahead == self._told_ahead:
            return self._frames.ping
        self._told_ahead = ahead
        return self._frames.queue_note(ahead, self._turn.relay.cursor)

    async def _push(self, send: Send, body: bytes, *, more: bool = True) -> None:
        self._stall.begin()
        await send({"type": "http.response.body", "body": body, "more_body": more})
        self._written_s = self._clock.monotonic()
        self._stall.end()


class _StallTimer:
    """Ends a block if its client reads nothing for too long: one timer per stream, none per send.

    That is a send that waits, or a clogged connection to which nothing was written meanwhile: no
    send waits for what was pushed.
    """

    def __init__(self, stall_s: float, is_clogged: Callable[[], bool]) -> None:
        self._stall_s = stall_s
        self._is_clogged = is_clogged
        self._is_sending = False
        self._since_s: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._block = asyncio.timeout(None)

    async def __aenter__(self) -> None:
        """The block to watch. Raises `SlowConsumer` if its client reads nothing."""
        await self._block.__aenter__()
        self._look()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        try:
            await self._block.__aexit__(kind, error, trace)
        except TimeoutError as late:
            raise SlowConsumer("the client reads nothing") from late

    def begin(self) -> None:
        """A send starts."""
        self._is_sending = True
        self._since_s = asyncio.get_running_loop().time()

    def end(self) -> None:
        """Something was written: the client reads."""
        self._is_sending = False
        self._since_s = None

    def _look(self) -> None:
        """Runs four times per limit, so that a stuck client is noticed a quarter of the limit late
        at most."""
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        if not self._is_sending and not self._is_clogged():
            self._since_s = None
        elif self._since_s is None:
            self._since_s = now_s
        if self._since_s is not None and now_s - self._since_s >= self._stall_s:
            self._block.reschedule(now_s)
        else:
            self._timer = loop.call_later(self._stall_s / 4, self._look)
