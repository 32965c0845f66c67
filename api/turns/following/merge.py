"""Merges two lossy, overlapping views of a turn's events into one exact sequence. Pure.

Live frames are fast but may be lost, duplicated, out of order, or from an owner that has lost its
lease. The log is authoritative but late. Whatever arrives, `Merge` gives every event once, in
order, and says when only the log can help.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from infra.wire.errors import ErrorCode, TurnFailed
from infra.wire.events import is_end
from infra.wire.frames import Frame

AHEAD_MAX = 1024
"""The number of frames kept while an earlier one is missing; the log has further ones."""


class Merge:
    """The merge of one turn. `cursor` is the number of the last event given out."""

    def __init__(self, *, after: int = 0) -> None:
        self.cursor = after
        self.is_ended = False
        self._fence = 0
        self._ahead: dict[int, bytes] = {}

    @property
    def has_gap(self) -> bool:
        """Whether later events are here but an earlier one is missing, so that the log must be
        read."""
        return bool(self._ahead)

    def live(self, frames: Iterable[Frame]) -> list[bytes]:
        """The new events of live frames, in order."""
        out: list[bytes] = []
        for frame in frames:
            if frame.fence != self._fence and not self._is_from_the_owner(frame):
                continue
            if frame.n == self.cursor + 1:
                self._give(out, frame.n, frame.payload)
            elif frame.n > self.cursor and len(self._ahead) < AHEAD_MAX and not self.is_ended:
                self._ahead[frame.n] = frame.payload
        return out

    def continues(self, frames: Iterable[Frame]) -> bool:
        """Whether these live frames are the next events and nothing else is to be decided: of the
        known owner, in order, with nothing missing before or between them."""
        if self._ahead or self.is_ended:
            return False
        fence, n = self._fence, self.cursor
        for frame in frames:
            n += 1
            if frame.n != n or frame.fence != fence:
                return False
        return True

    def pass_over(self, count: int) -> None:
        """The next events, as many as this, were given out elsewhere. None of them is an end."""
        self.cursor += count

    def logged(self, events: Sequence[tuple[int, bytes]]) -> list[bytes]:
        """The new events of a page of the log. Raises `TurnFailed` if the log itself has a gap.

        The log only grows at its end, so a number that is missing in its middle never comes.
        """
        out: list[bytes] = []
        for n, payload in events:
            if n <= self.cursor or self.is_ended:
                continue
            if n != self.cursor + 1:
                raise TurnFailed("", code=ErrorCode.LOG_LOST)
            self._give(out, n, payload)
        if self._ahead:
            self._ahead = {n: held for n, held in self._ahead.items() if n > self.cursor}
        return out

    def end_behind(self, payload: bytes) -> list[bytes]:
        """The turn's end, logged under a number that live frames have already used.

        The live frames were ahead of the log, and whatever ended the turn by force (a delete, an
        adopter that found the agent gone) did not know them. The turn ends after them nevertheless.
        """
        self.is_ended = True
        self._ahead.clear()
        return [payload]

    def _is_from_the_owner(self, frame: Frame) -> bool:
        """A newer fence takes over; what an older owner sent ahead of it is not trusted."""
        if frame.fence < self._fence:
            return False
        self._fence = frame.fence
        self._ahead.clear()
        return True

    def _give(self, out: list[bytes], n: int, payload: bytes) -> None:
        """The event and all kept ones that follow it without a gap."""
        held: bytes | None = payload
        while held is not None and not self.is_ended:
            out.append(held)
            self.cursor = n
            self.is_ended = is_end(held)
            n += 1
            held = self._ahead.pop(n, None) if self._ahead else None
        if self.is_ended:
            self._ahead.clear()
