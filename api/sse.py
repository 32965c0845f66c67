"""A streamed answer: a race of events, client, keep-alive and shutdown; the first to end stops all.

Departures from `EventSourceResponse`, on purpose:
- Bytes are sent as they are and joined per loop pass. The library's cancel scope per event is more
  than half of its cost per delta, so a stalled reader is noticed by the ping task instead.
- The 200 waits for the first event that settles the outcome (or `commit_after_s`), so that an early
  failure keeps its honest status, then pings begin.
- Pings come in silence only, and never while a send is under way.
- Shutdown is told to the relay by `api.drain`, which ends the stream with a clean error. The
  library would cut every stream within half a second of SIGTERM, without an end mark.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress

import anyio
from sse_starlette.sse import EventSourceResponse, SendTimeoutError
from starlette.types import Message, Receive, Scope, Send

from api.chunks import PING, ChunkFrames, is_sight, read_end
from api.errors import error_event
from api.submit import OpenTurn
from infra.runtime.logs import fields
from infra.wire.errors import AgClusterError
from infra.wire.events import is_end

log = logging.getLogger(__name__)

HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


class ChatStream(EventSourceResponse):
    """The answer to `stream: true`. Owns the turn's hold and lets go of it, whatever happens."""

    def __init__(
        self,
        turn: OpenTurn,
        frames: ChunkFrames,
        *,
        headers: dict[str, str],
        commit_after_s: float,
        ping_interval_s: float,
        send_timeout_s: float,
    ) -> None:
        super().__init__(
            _nothing(),
            headers=HEADERS | headers,
            ping=ping_interval_s,
            send_timeout=send_timeout_s,
        )
        self._turn = turn
        self._frames = frames
        self._commit_after_s = commit_after_s
        self._stall_s = send_timeout_s
        self._is_committed = anyio.Event()
        self._is_over = False
        self._sent_at = 0.0
        self._sending_since: float | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except SendTimeoutError:
            log.warning("client reads nothing; dropped", extra=fields(turn=self._turn.id))
        except AgClusterError:
            self._is_over = True
            raise
        finally:
            self._turn.leave(hung_up=not self._is_over)

    async def _stream_response(self, send: Send) -> None:
        """Raises `TurnFailed` when the turn fails before the 200 went out."""
        events = await self._until_settled()
        ended = events and is_end(events[-1])
        end = read_end(events[-1]) if ended else None
        await self._start(send)
        body = self._frames.first() + self._frames.render(events)
        try:
            if end is None:
                await self._push(send, body)
                async for events in self._turn.relay:
                    if body := self._frames.render(events):
                        await self._push(send, body)
                    body = b""
                end = read_end(events[-1])
            body += self._frames.last(end)
        except AgClusterError as error:
            log.info(
                "stream ends with an error", extra=fields(turn=self._turn.id, code=error.code.value)
            )
            body = error_event(error, self._turn.id)
        async with self._send_lock:
            self.active = False
            await self._push(send, body, more=False)
        self._is_over = True

    async def _until_settled(self) -> list[bytes]:
        """The first events, up to one that settles the outcome, or those of `commit_after_s`."""
        held: list[bytes] = []
        with suppress(TimeoutError):
            async with asyncio.timeout(self._commit_after_s):
                async for events in self._turn.relay:
                    held += events
                    if any(map(is_sight, events)):
                        break
        return held

    async def _start(self, send: Send) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        self._sent_at = asyncio.get_running_loop().time()
        self._is_committed.set()

    async def _push(self, send: Send, body: bytes, *, more: bool = True) -> None:
        message: Message = {"type": "http.response.body", "body": body, "more_body": more}
        now = asyncio.get_running_loop().time()
        self._sending_since = now
        await send(message)
        self._sending_since = None
        self._sent_at = now

    async def _ping(self, send: Send) -> None:
        """Pings in silence; raises `SendTimeoutError` when a send has been stuck for too long."""
        await self._is_committed.wait()
        loop = asyncio.get_running_loop()
        # A stuck send is looked at this often; anything else sleeps until the next ping is due.
        glance_s = min(self.ping_interval, self._stall_s / 4)
        while self.active:
            stuck_since = self._sending_since
            if stuck_since is not None:
                if loop.time() - stuck_since >= self._stall_s:
                    raise SendTimeoutError
                await anyio.sleep(glance_s)
            elif (due_s := self._sent_at + self.ping_interval - loop.time()) > 0:
                await anyio.sleep(min(due_s, self._stall_s))
            else:
                await self._send_ping(send)

    async def _send_ping(self, send: Send) -> None:
        async with self._send_lock:
            if not self.active:
                return
            with anyio.fail_after(self._stall_s):
                await send({"type": "http.response.body", "body": PING, "more_body": True})
            self._sent_at = asyncio.get_running_loop().time()

    async def _listen_for_exit_signal_with_grace(self) -> None:
        """Never: `api.drain` ends streams through their relays."""
        await anyio.sleep_forever()


async def _nothing() -> AsyncIterator[bytes]:
    """The library wants an iterator; the relay is read directly."""
    return
    yield b""
