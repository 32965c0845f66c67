"""The output of a turn: numbered frames, kept until they are acknowledged.

The agent outlives its worker, so nothing is dropped before it is in the turn log. The connected
worker reads from a cursor, and a frame that it may have read never changes. The memory is limited:
new text is appended to a delta that nobody has read yet, and at `max_bytes` the writer has to wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from infra.wire.events import Event, TurnEnded, encode_event, text_literal, thinking_literal
from infra.wire.ids import TurnId

JOINED_MAX_BYTES = 16 * 1024
"""A delta stops growing at this size, so that a reader who catches up still gets it in pieces."""

FRAME_OVERHEAD_BYTES = 100
"""Bytes of a kept frame in addition to its payload (object headers, its place in the table)."""


class Outbox:
    """The frames of one turn, from 1 to its end.

    One task writes (`put`, then `end`); readers take frames by number and may come and go.
    """

    def __init__(self, turn: TurnId, *, max_bytes: int) -> None:
        self.turn = turn
        self.last_n = 0
        self.acked_n = 0
        self.is_ended = False
        self._max_bytes = max_bytes
        self._payloads: dict[int, bytes] = {}
        self._bytes = 0
        self._read_n = 0
        self._wake: Callable[[], None] | None = None
        self._is_unbounded = False
        self._room = asyncio.Event()

    @property
    def is_settled(self) -> bool:
        """Whether its end is acknowledged, so that the turn can be dropped."""
        return self.is_ended and self.acked_n >= self.last_n

    @property
    def kept_bytes(self) -> int:
        """The approximate memory of the unacknowledged frames."""
        return self._bytes

    async def put(self, event: Event) -> None:
        """Number the event and offer it to the reader. Waits while the outbox is full.

        The event is in the outbox even if the wait is cancelled. The length of the wait depends on
        the reader's acknowledgements; `lift_bound` ends it. Events after the end are dropped.
        """
        if self.is_ended:
            return
        self._append(encode_event(event))
        while self._bytes >= self._max_bytes and not self._is_unbounded:
            self._room.clear()
            await self._room.wait()

    def end(self, event: TurnEnded) -> None:
        """Add the last frame, whatever the limit. A second end is ignored."""
        if not self.is_ended:
            self.is_ended = True
            self._append(encode_event(event))

    def lift_bound(self) -> None:
        """Never wait again: an interrupted turn has to be drained, and little is left to come."""
        self._is_unbounded = True
        self._room.set()

    def ack(self, n: int) -> None:
        """Drop the frames up to `n`. A number that was acknowledged before, or lies beyond the
        newest, is harmless."""
        upto = min(n, self.last_n)
        for number in range(self.acked_n + 1, upto + 1):
            self._bytes -= len(self._payloads.pop(number)) + FRAME_OVERHEAD_BYTES
        self.acked_n = max(self.acked_n, upto)
        self._read_n = max(self._read_n, upto)
        if self._bytes < self._max_bytes:
            self._room.set()

    def take(self, n: int) -> bytes | None:
        """The payload of frame `n`; None if it does not exist yet."""
        payload = self._payloads.get(n)
        if payload is not None:
            self._read_n = max(self._read_n, n)
        return payload

    def attach(self, wake: Callable[[], None]) -> None:
        """Call `wake` whenever there is a new frame. Replaces the previous reader."""
        self._wake = wake

    def detach(self, wake: Callable[[], None]) -> None:
        """Remove that reader, if it is still the attached one."""
        if self._wake == wake:
            self._wake = None

    def _append(self, payload: bytes) -> None:
        if not self._join(payload):
            self.last_n += 1
            self._payloads[self.last_n] = payload
            self._bytes += len(payload) + FRAME_OVERHEAD_BYTES
        if self._wake is not None:
            self._wake()

    def _join(self, payload: bytes) -> bool:
        """Append a delta's text to the last frame, if that has the same kind and is unread."""
        if self.last_n <= self._read_n:
            return False
        last = self._payloads[self.last_n]
        joined = _join_deltas(last, payload)
        if joined is None or len(joined) > JOINED_MAX_BYTES:
            return False
        self._payloads[self.last_n] = joined
        self._bytes += len(joined) - len(last)
        return True


def _join_deltas(first: bytes, second: bytes) -> bytes | None:
    """Two deltas of one kind as one, joined in their escaped form; None for anything else."""
    for literal in (text_literal, thinking_literal):
        if literal(first) is not None and (tail := literal(second)) is not None:
            return first[:-2] + tail[1:] + b"}"
    return None
