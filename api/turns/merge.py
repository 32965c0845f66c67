"""Two lossy, overlapping views of a turn's events -> one exact sequence. Pure.

Live frames come fast but may be lost, doubled, out of order or from an owner that has lost its
lease; the log is the truth but late. Whatever arrives, `Merge` gives every event once, in the order
of its number, and says when only the log can help.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from infra.wire.errors import ErrorCode, TurnFailed
from infra.wire.events import is_end
from infra.wire.frames import Frame

AHEAD_MAX = 1024
"""Frames kept while an earlier one is missing; the log has those beyond it."""


class Merge:
    """The merge of one turn. `cursor` is the number of the last event given out."""

    def __init__(self, *, after: int = 0) -> None:
        self.cursor = after
        self.is_ended = False
        self._fence = 0
        self._ahead: dict[int, bytes] = {}

    @property
    def has_gap(self) -> bool:
        """Later events are here but an earlier one is missing: read the log."""
        return bool(self._ahead)

    def live(self, frames: Iterable[Frame]) -> list[bytes]:
        """What frames as they arrived add to the sequence."""
        out: list[bytes] = []
        for frame in frames:
            if frame.fence != self._fence and not self._is_from_the_owner(frame):
                continue
            if frame.n == self.cursor + 1:
                self._give(out, frame.n, frame.payload)
            elif frame.n > self.cursor and len(self._ahead) < AHEAD_MAX and not self.is_ended:
                self._ahead[frame.n] = frame.payload
        return out

    def logged(self, events: Sequence[tuple[int, bytes]]) -> list[bytes]:
        """What a page of the log adds. Raises `TurnFailed` when the log itself has a hole.

        The log only grows at its end, so a number missing in its middle never comes.
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
        """The turn's end, logged under a number that live frames have used already.

        They ran ahead of the log, and what ended the turn by force (a delete, an adopter that
        found the agent gone) did not know of them: behind them it ends all the same.
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
        """The event and all held ones that follow it without a gap."""
        held: bytes | None = payload
        while held is not None and not self.is_ended:
            out.append(held)
            self.cursor = n
            self.is_ended = is_end(held)
            n += 1
            held = self._ahead.pop(n, None) if self._ahead else None
        if self.is_ended:
            self._ahead.clear()
