"""Splits an agent's bytes into lines, within limits.

The maximum length of a line depends on its kind, which its first bytes show: a few KB for an
answer, 2 MB for a frame, the store's limit for transcript entries. The total memory for long lines
of all agents is limited too. Parses nothing; used by `worker.turns.link.agent_link`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Protocol

from infra.wire.errors import MalformedMessage
from infra.wire.frames import is_frame
from infra.wire.link import (
    ANSWER_MAX_BYTES,
    FRAME_MAX_BYTES,
    GREETING_MAX_BYTES,
    LINE_MAX_BYTES,
    TRANSCRIPT_HEAD,
    TRANSCRIPT_LINE_MAX_BYTES,
)

LONG_LINE_BYTES = 256 * 1024
"""An incomplete line counts from this size on."""
GROWING_MAX_BYTES = 64 * 1024 * 1024
"""Bytes of incomplete long lines that a worker holds, for all its agents."""
LARGE_AT_ONCE = 2
WAITING_MAX_BYTES = LARGE_AT_ONCE * TRANSCRIPT_LINE_MAX_BYTES
"""Bytes of lines that wait to be stored: as many of the longest as are stored at once."""
HEAD_BYTES = 512
"""Bytes kept of a skipped line: enough to know its kind."""


class CutLine(bytes):
    """The beginning of a line that was too long to keep."""


class LineHolder(Protocol):
    """The holder of an incomplete long line."""

    def drop_line(self) -> None:
        """Drop the line and the link it came from; the agent may send it again."""
        ...


class HeldLines:
    """The long lines of all agents of a worker, within two limits.

    An honest line is incomplete only for milliseconds. So if all together are too large, the one
    that has been incomplete for longest is dropped: an agent that leaves its line unfinished blocks
    nobody.

    Lines that wait to be stored have a limit of their own and are refused beyond it. They wait for
    a store that may be slow or unavailable, so they must not use the memory of incomplete lines.
    """

    def __init__(
        self,
        growing_max_bytes: int = GROWING_MAX_BYTES,
        waiting_max_bytes: int = WAITING_MAX_BYTES,
    ) -> None:
        self._growing_max_bytes = growing_max_bytes
        self._waiting_max_bytes = waiting_max_bytes
        self._growing: dict[LineHolder, int] = {}
        self._waiting_bytes = 0
        self.large = asyncio.Semaphore(LARGE_AT_ONCE)
        """Held while a long line is parsed and stored, which takes a few times its length."""

    @property
    def held_bytes(self) -> int:
        return sum(self._growing.values()) + self._waiting_bytes

    def grow(self, holder: LineHolder, size_bytes: int) -> None:
        """Its line has grown to that size. It, or an older one, may be dropped at once."""
        self._growing[holder] = size_bytes
        while sum(self._growing.values()) > self._growing_max_bytes:
            oldest = next(iter(self._growing))
            del self._growing[oldest]
            oldest.drop_line()

    def ended(self, holder: LineHolder) -> None:
        """Its line is complete, or gone."""
        self._growing.pop(holder, None)

    def wait(self, size_bytes: int) -> bool:
        """Whether a complete line may wait to be handled.

        If so, call `done` when it no longer waits.
        """
        if self._waiting_bytes + size_bytes > self._waiting_max_bytes:
            return False
        self._waiting_bytes += size_bytes
        return True

    def done(self, size_bytes: int) -> None:
        self._waiting_bytes -= size_bytes


class LineCutter:
    """Splits the bytes of one connection."""

    def __init__(self, holder: LineHolder, held: HeldLines) -> None:
        self._holder = holder
        self._held = held
        # Not a list of pieces: each would cost an object, and the sender chooses their size.
        self._partial = bytearray()
        self._skipped_bytes = 0
        self._is_skipping = False
        self.is_greeted = False
        """After the welcome lines may be longer."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The lines that are complete now, without their line breaks; a `CutLine` among them was
        too long.

        Yields them one by one, because the first may be the welcome. Raises `MalformedMessage` for
        a line that exceeds the limit of its kind.
        """
        if self._partial:
            end = data.find(b"\n")
            if end < 0:
                self._grow(data)
                return
            self._grow(data[:end])
            yield self._finished()
            data = data[end + 1 :]
        lines = data.split(b"\n")
        rest = lines.pop()
        yield from lines
        if rest:
            self._grow(rest)

    def drop(self) -> None:
        """Drop the incomplete line."""
        self._held.ended(self._holder)
        self._partial = bytearray()

    def _finished(self) -> bytes:
        line = CutLine(self._partial) if self._is_skipping else bytes(self._partial)
        self._partial.clear()
        self._is_skipping, self._skipped_bytes = False, 0
        self._held.ended(self._holder)
        return line

    def _grow(self, piece: bytes) -> None:
        if self._is_skipping:
            self._skipped_bytes += len(piece)
            if self._skipped_bytes > LINE_MAX_BYTES:
                raise MalformedMessage(f"a line longer than {LINE_MAX_BYTES} bytes")
            return
        self._partial += piece
        if len(self._partial) > GREETING_MAX_BYTES:
            self._check()

    def _check(self) -> None:
        """Limit the incomplete line by its kind, and count it if it is long."""
        size = len(self._partial)
        if self.is_greeted and self._partial.startswith(TRANSCRIPT_HEAD):
            if size > TRANSCRIPT_LINE_MAX_BYTES:
                self._skip()
                return
        else:
            check_length(self._partial, is_greeted=self.is_greeted)
        if size > LONG_LINE_BYTES:
            self._held.grow(self._holder, size)

    def _skip(self) -> None:
        self._is_skipping, self._skipped_bytes = True, len(self._partial)
        del self._partial[HEAD_BYTES:]
        self._held.ended(self._holder)


def check_length(line: bytes | bytearray, *, is_greeted: bool) -> None:
    """Raises `MalformedMessage` for a line (not a transcript's) beyond its limit."""
    longest = GREETING_MAX_BYTES
    if is_greeted:
        longest = FRAME_MAX_BYTES if is_frame(line) else ANSWER_MAX_BYTES
    if len(line) > longest:
        raise MalformedMessage(f"a line longer than {longest} bytes")
