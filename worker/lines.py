"""An agent's bytes, cut into lines under bounds.

How long a line may be depends on what it is, which its first bytes tell: a few KB for an answer, 2
MB for a frame, what a store keeps for transcript entries. All that a worker holds of long lines is
bounded too, over all its agents. Parses nothing; used by `worker.turns.agent_link`.
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
"""What is under way of a line is counted from here on."""
GROWING_MAX_BYTES = 64 * 1024 * 1024
"""What a worker holds of long lines that are under way, over all its agents."""
LARGE_AT_ONCE = 2
WAITING_MAX_BYTES = LARGE_AT_ONCE * TRANSCRIPT_LINE_MAX_BYTES
"""And of lines that wait to be stored: as many of the longest as are stored at once."""
HEAD_BYTES = 512
"""What is kept of a line that is read past: enough to know what it was."""


class CutLine(bytes):
    """The beginning of a line that was too long to keep."""


class LineHolder(Protocol):
    """Who holds a long line that is under way."""

    def drop_line(self) -> None:
        """Let go of it, and of the peer that sends it, which may send it again."""
        ...


class HeldLines:
    """The long lines of all agents of a worker, within two bounds.

    An honest line is under way for milliseconds. So when all are too much, the one that has been
    under way the longest is dropped: an agent that leaves its line unfinished blocks nobody.

    What waits has a bound of its own, and is refused beyond it. It waits for a store that may be
    slow or away, so it must not take the room of the lines that are under way.
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
        """Held while a long line is read and stored, which takes a few times its length."""

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
        """Its line is whole, or gone."""
        self._growing.pop(holder, None)

    def wait(self, size_bytes: int) -> bool:
        """Whether a whole line may wait for what becomes of it.

        If so, `done` when it waits no more.
        """
        if self._waiting_bytes + size_bytes > self._waiting_max_bytes:
            return False
        self._waiting_bytes += size_bytes
        return True

    def done(self, size_bytes: int) -> None:
        self._waiting_bytes -= size_bytes


class LineCutter:
    """Cuts one connection's bytes."""

    def __init__(self, holder: LineHolder, held: HeldLines) -> None:
        self._holder = holder
        self._held = held
        # Not a list of pieces: each would cost an object, and a sender chooses how small they are.
        self._partial = bytearray()
        self._skipped_bytes = 0
        self._is_skipping = False
        self.is_greeted = False
        """After the welcome lines may be longer."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The lines that are whole now, without their breaks; a `CutLine` among them was too long.

        One by one, because the first may be the welcome. Raises `MalformedMessage` for a line that
        grows longer than its kind may be.
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
        """Forget what is under way."""
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
        """Bound what is under way by what it is, and note it where it is long."""
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
    """Raises `MalformedMessage` for a line, no transcript's, that is longer than it may be."""
    longest = GREETING_MAX_BYTES
    if is_greeted:
        longest = FRAME_MAX_BYTES if is_frame(line) else ANSWER_MAX_BYTES
    if len(line) > longest:
        raise MalformedMessage(f"a line longer than {longest} bytes")
