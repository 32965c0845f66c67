"""Follows a turn's events from the first to the last, each exactly once.

Live frames are the fast path; the turn log is authoritative. `Watch` decides when to read the log:
when joining a turn, when frames were lost, when an earlier event is missing, and after a second of
silence (then less and less often). So a missed frame is seen late, but never lost. If Redis is
unavailable, the relay waits for a while, then fails.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Protocol

from api.turns.following.merge import Merge
from infra.metrics.api import LOG_READS, RELAYS_GIVEN_UP
from infra.runtime.clock import Clock
from infra.runtime.logs import fields
from infra.store.turns.log import LogPage
from infra.wire.errors import AgClusterError, ErrorCode, StoreUnavailable, TurnFailed
from infra.wire.events import is_end
from infra.wire.frames import Frame
from infra.wire.ids import TurnId
from infra.wire.states import TurnState

log = logging.getLogger(__name__)

PAGE_ENTRIES = 500
FIRST_PAGE_ENTRIES = 8
PAGE_BYTES = 256 * 1024
"""About what is read of the log at once; a reader that is stuck holds that much, and its mailbox.

How many entries that is is told by the page before.
"""
SILENCE_S = 1.0
"""Seconds of silence after which the log is read. Each silent read waits half as long again."""
SILENCE_MAX_S = 5.0
GAP_S = 0.05
"""First wait in seconds for the log to have what live frames lack; it may be 250 ms behind. Doubles
each time."""
GAP_MAX_S = 0.5
DEAF_S = 0.25
"""Seconds between reads while the log grows and no live frame arrives: the log's own interval."""
FAR_SILENCE_S = 0.25
FAR_SILENCE_MAX_S = 1.0
"""The same if live frames go to another replica, so that there is only the log."""
RETRY_S = 0.1
RETRY_MAX_S = 2.0
GIVE_UP_S = 20.0
"""Seconds that Redis may be unavailable before a stream fails."""
POSITION_S = 2.0
"""How often a turn's place in the queue is read while it changes; otherwise less and less often."""
POSITION_MAX_S = 15.0
OVERDUE_S = 120.0
"""Seconds after the turn's deadline, which its worker enforces, before the relay does."""


Push = Callable[[list[bytes], int], bool]
"""Sends events at once, the first of which has this number. Returns False, and does nothing, if it
cannot send all of them now. It neither waits nor raises."""


class Mailbox(Protocol):
    """Live frames of one turn (`infra.store.turns.mailbox.LiveTurn`)."""

    sink: Callable[[Sequence[Frame]], bool] | None

    @property
    def overflowed(self) -> bool: ...

    async def wait(self, timeout_s: float) -> bool: ...

    def take(self) -> list[Frame]: ...

    def overflow(self) -> None: ...


class LogReader(Protocol):
    """The turn log, reading (`infra.store.turns.log.TurnLog`)."""

    async def read(self, turn: TurnId, *, after: int, limit: int = ...) -> LogPage: ...

    async def newest(self, turn: TurnId) -> bytes | None: ...


class WaitingTurns(Protocol):
    """What is asked about turns that nobody has started (`infra.store.turns.TurnStore`)."""

    async def expire(self, turn: TurnId) -> bool: ...

    async def position(self, turn: TurnId) -> int | None: ...


class Watch:
    """Decides when to read the log next. Pure: it is told what happened and when, in monotonic
    seconds."""

    def __init__(
        self, due: float, *, silence_s: float = SILENCE_S, silence_max_s: float = SILENCE_MAX_S
    ) -> None:
        self.due = due
        self._silence_s = silence_s
        self._silence_max_s = silence_max_s
        self._read_at = -math.inf
        self._silence = silence_s
        self._gap = GAP_S
        self._retry = RETRY_S
        self._is_lossy = False
        self._failing_since: float | None = None

    def heard(self, now: float, *, gap: bool, overflowed: bool) -> None:
        """Live frames arrived."""
        self._silence = self._silence_s
        self._is_lossy |= overflowed
        if overflowed:
            self.due = now
        elif gap:
            self.due = min(self.due, max(now, self._read_at + self._gap))
        else:
            self._gap = GAP_S
            self._is_lossy = False
            self._failing_since = None
            self.due = now + self._silence_s

    def read(self, now: float, *, found: int, gap: bool, is_full: bool = False) -> None:
        """The log was read and gave `found` new events; `is_full`: as many as were requested."""
        self._read_at = now
        self._retry = RETRY_S
        self._failing_since = None
        if is_full:
            self.due = now
        elif gap or self._is_lossy:
            # The lost frame may have been the last one, and the log does not have it yet.
            self.due = now + self._gap
            self._is_lossy &= self._gap < GAP_MAX_S
            self._gap = min(self._gap * 2, GAP_MAX_S)
        elif found:
            self._silence = self._silence_s
            self.due = now + DEAF_S
        else:
            self.due = now + self._silence
            self._silence = min(self._silence * 1.5, self._silence_max_s)

    def cause(self, *, gap: bool) -> str:
        """Why the log is read now, in a word."""
        if self._read_at == -math.inf:
            return "join"
        return "gap" if gap or self._is_lossy else "silence"

    def failed(self, now: float) -> bool:
        """The log could not be read. True if that has lasted too long."""
        if self._failing_since is None:
            self._failing_since = now
        self.due = now + self._retry
        self._retry = min(self._retry * 2, RETRY_MAX_S)
        return now - self._failing_since > GIVE_UP_S


class Relay:
    """The events of one turn, in batches as they arrive; also an async iterator.

    Raises `TurnFailed` if the rest cannot be had. Cancelling a wait loses nothing: the next one
    continues at the same event. Supports one consumer.
    """

    def __init__(
        self,
        turn: TurnId,
        *,
        mailbox: Mailbox,
        turn_log: LogReader,
        turns: WaitingTurns,
        clock: Clock,
        queue_timeout_s: float,
        deadline_s: float,
        after: int = 0,
        is_fresh: bool = False,
        is_far: bool = False,
    ) -> None:
        """Gives the events after number `after`.

        `is_fresh`: the mailbox is older than the turn, so its log has nothing new yet. `is_far`:
        the turn's live frames go to another replica.
        """
        self.turn = turn
        self._mailbox = mailbox
        self._log = turn_log
        self._turns = turns
        self._clock = clock
        self._queue_timeout_s = queue_timeout_s
        self._deadline_s = deadline_s
        self._merge = Merge(after=after)
        self._started = clock.monotonic()
        self._begun: float | None = None
        due = self._started + (SILENCE_S if is_fresh else 0.0)
        self._watch = (
            Watch(due, silence_s=FAR_SILENCE_S, silence_max_s=FAR_SILENCE_MAX_S)
            if is_far
            else Watch(due)
        )
        self._stopped: AgClusterError | None = None
        self._push: Push | None = None
        self._page = FIRST_PAGE_ENTRIES
        self.is_place_wanted = False
        """Whether somebody shows `ahead`; otherwise it is not read."""
        self.ahead: int | None = None
        """The number of turns ahead of this one while it waits, when it was last read."""
        self._has_moved = False
        self._place_due = self._started
        self._place_pause = POSITION_S

    @property
    def is_ended(self) -> bool:
        """Whether the end event has been given out."""
        return self._merge.is_ended

    @property
    def cursor(self) -> int:
        """The number of the last event given out."""
        return self._merge.cursor

    def stop(self, error: AgClusterError) -> None:
        """Make the current or next wait raise `error`."""
        self._stopped = error
        self._mailbox.overflow()  # Wakes the wait.

    def push_to(self, push: Push | None) -> None:
        """From now on, live events that arrive during `next` are offered to `push` (or to nobody).

        Those that it sends count as given out, and `next` sleeps on. So a delta costs no switch of
        tasks. Whatever is not simply the next event wakes `next`, as do events that `push` does not
        send.
        """
        self._push = push
        self._mailbox.sink = self._pushed if push is not None else None

    def __aiter__(self) -> Relay:
        return self

    async def __anext__(self) -> list[bytes]:
        if events := await self.next():
            return events
        raise StopAsyncIteration

    async def next(self, *, until_s: float = math.inf) -> list[bytes]:
        """The next events.

        None if the turn has ended, `until_s` (monotonic) came first, or `ahead` has changed.
        """
        while not self._merge.is_ended:
            if self._stopped is not None:
                raise self._stopped
            now = self._clock.monotonic()
            if now >= self._watch.due:
                events = await self._read_log()
            elif now >= until_s or self._has_moved:
                self._has_moved = False
                break
            else:
                events = await self._hear(min(self._watch.due, until_s) - now)
            if events:
                self.ahead = None
                return events
        return []

    def _pushed(self, frames: Sequence[Frame]) -> bool:
        """The mailbox's sink."""
        first = self._merge.cursor + 1
        if self._push is None or not self._merge.continues(frames):
            return False
        if not self._push([frame.payload for frame in frames], first):
            return False
        self._merge.pass_over(len(frames))
        self._watch.heard(self._clock.monotonic(), gap=False, overflowed=False)
        return True

    async def _hear(self, timeout_s: float) -> list[bytes]:
        if not await self._mailbox.wait(timeout_s):
            return []
        overflowed = self._mailbox.overflowed
        frames = self._mailbox.take()
        events = self._merge.live(frames)
        if frames or overflowed:
            gap = self._merge.has_gap
            self._watch.heard(self._clock.monotonic(), gap=gap, overflowed=overflowed)
        return events

    async def _read_log(self) -> list[bytes]:
        LOG_READS.labels(self._watch.cause(gap=self._merge.has_gap)).inc()
        try:
            page = await self._log.read(self.turn, after=self._merge.cursor, limit=self._page)
        except StoreUnavailable as error:
            if self._watch.failed(self._clock.monotonic()):
                RELAYS_GIVEN_UP.inc()
                log.warning("relay gave up on the store", extra=fields(turn=self.turn))
                raise TurnFailed("", code=ErrorCode.STORE_UNAVAILABLE) from error
            return []
        events = self._merge.logged(page.events)
        now = self._clock.monotonic()
        found = len(page.events)
        is_full = page.entries >= self._page
        self._watch.read(now, found=found, gap=self._merge.has_gap, is_full=is_full)
        if found:
            size = sum(len(payload) for _, payload in page.events)
            self._page = max(1, min(PAGE_ENTRIES, PAGE_BYTES * page.entries // max(size, 1)))
        return events or await self._judge(page, now, is_full=is_full)

    async def _judge(self, page: LogPage, now: float, *, is_full: bool) -> list[bytes]:
        """The log has nothing new: check whether the turn can still end on its own."""
        if page.state is None:
            raise TurnFailed("", code=ErrorCode.LOG_LOST)
        if page.state.is_terminal and not is_full:
            return await self._find_end()
        if page.state is TurnState.QUEUED:
            await self._expire_when_overdue(now)
            await self._look_for_place(now)
        else:
            self.ahead = None
            self._begun = self._begun or now
            if now - self._begun > self._deadline_s + OVERDUE_S:
                raise TurnFailed("", code=ErrorCode.TURN_TIMED_OUT)
        return []

    async def _find_end(self) -> list[bytes]:
        """The end of a finished turn that has no event after the cursor.

        A page's state is never newer than its events, so if the end is not before the cursor
        either, it is gone for good.
        """
        try:
            newest = await self._log.newest(self.turn)
        except StoreUnavailable:
            return []
        if newest is None or not is_end(newest):
            raise TurnFailed("", code=ErrorCode.LOG_LOST)
        return self._merge.end_behind(newest)

    async def _look_for_place(self, now: float) -> None:
        if not self.is_place_wanted or now < self._place_due:
            return
        try:
            ahead = await self._turns.position(self.turn)
        except StoreUnavailable:
            return
        has_moved = ahead != self.ahead
        self.ahead = ahead
        self._has_moved |= has_moved
        self._place_pause = (
            POSITION_S if has_moved else min(self._place_pause * 1.5, POSITION_MAX_S)
        )
        self._place_due = now + self._place_pause

    async def _expire_when_overdue(self, now: float) -> None:
        """Workers sweep the queue too; this is for the case that there is no worker."""
        if now - self._started <= self._queue_timeout_s:
            return
        try:
            await self._turns.expire(self.turn)
        except StoreUnavailable:
            return
        self._watch.due = now
