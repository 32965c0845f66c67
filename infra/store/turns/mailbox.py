"""Where one relay's live frames wait for it, or are used up while it sleeps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from infra.wire.frames import Frame

Sink = Callable[[Sequence[Frame]], bool]
"""Uses up frames at once, all of them (True) or none. Called by the subscriber, so it must neither
wait nor raise."""


class LiveTurn:
    """One relay's bounded mailbox of live frames. Supports one waiter at a time.

    It waits on a plain future, and one timer serves many waits: an event and a timeout per wait
    would cost twice as much as everything else that the relay does for a delta.
    """

    sink: Sink | None = None
    """Offered what arrives while the relay waits. Frames that it takes never enter the mailbox, and
    the relay sleeps on."""

    overflowed: bool
    """Whether frames were dropped since the last `take`, so that the log must be read. Also set if
    the subscription was renewed. Check it before `take`, which resets it."""

    def __init__(self, *, frames_max: int, bytes_max: int) -> None:
        self._frames_max = frames_max
        self._bytes_max = bytes_max
        self._frames: list[Frame] = []
        self._bytes = 0
        self._is_news = False
        self._waiter: asyncio.Future[bool] | None = None
        self._until_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        # Kept here, because uvloop returns a timer that is already due as a plain handle.
        self._rings_at_s = 0.0
        self.overflowed = False

    async def wait(self, timeout_s: float) -> bool:
        """Wait until a frame is there, or frames were lost. Returns False after `timeout_s` of
        silence."""
        if self._is_news:
            return True
        loop = asyncio.get_running_loop()
        self._until_s = loop.time() + timeout_s
        if self._timer is None or self._rings_at_s > self._until_s:
            self._ring_at(loop, self._until_s)
        self._waiter = loop.create_future()
        try:
            return await self._waiter
        finally:
            self._waiter = None

    def take(self) -> list[Frame]:
        """All waiting frames, in order of arrival."""
        taken, self._frames = self._frames, []
        self._bytes = 0
        self.overflowed = False
        self._is_news = False
        return taken

    def deliver(self, frames: Sequence[Frame]) -> None:
        """Frames that arrived together, in order. Those that the sink does not take are put into
        the mailbox."""
        # In pieces as large as the mailbox: what is made of them at once is bounded too.
        for begin in range(0, len(frames), self._frames_max):
            piece = frames[begin : begin + self._frames_max]
            if not self._is_taken(piece):
                for frame in piece:
                    self.put(frame)

    def put(self, frame: Frame) -> None:
        """Add a frame. Beyond the limits it is dropped and `overflowed` is set."""
        size = len(frame.payload)
        if len(self._frames) >= self._frames_max or self._bytes + size > self._bytes_max:
            self.overflow()
            return
        self._frames.append(frame)
        self._bytes += size
        self._wake(True)

    def overflow(self) -> None:
        """Frames may have been lost: wake the relay, so that it reads the log."""
        self.overflowed = True
        self._wake(True)

    def close(self) -> None:
        """Nobody waits any longer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _is_taken(self, frames: Sequence[Frame]) -> bool:
        """Only while the relay is asleep in its wait: otherwise it is about to take, read or send
        something that comes first."""
        if self.sink is None or self._waiter is None or self._waiter.done():
            return False
        return self.sink(frames)

    def _wake(self, is_news: bool) -> None:
        self._is_news |= is_news
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(is_news)

    def _ring_at(self, loop: asyncio.AbstractEventLoop, at_s: float) -> None:
        self.close()
        self._rings_at_s = at_s
        self._timer = loop.call_at(at_s, self._ring, loop)

    def _ring(self, loop: asyncio.AbstractEventLoop) -> None:
        """The wait that the timer was set for may be over, and another one in progress."""
        self._timer = None
        if self._waiter is None:
            return
        if loop.time() < self._until_s:
            self._ring_at(loop, self._until_s)
        else:
            self._wake(False)
