"""How much may be under way at once, and how many a minute."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from aiolimiter import AsyncLimiter

from infra.wire.errors import AgClusterError

_MINUTE_S = 60.0


class PlacesTaken(AgClusterError):
    """As much is under way as may be."""


class TooFast(AgClusterError):
    """More came in a minute than may, for longer than anybody waits."""


class Places:
    """A bound on how much may be under way at once."""

    def __init__(self, places_max: int) -> None:
        self._places_max = places_max
        self._taken = 0

    @contextmanager
    def take(self, count: int = 1) -> Iterator[None]:
        """Raises `PlacesTaken` at once when there are not so many left."""
        if self._taken + count > self._places_max:
            raise PlacesTaken(f"at most {self._places_max} at once")
        self._taken += count
        try:
            yield
        finally:
            self._taken -= count


class Pace:
    """A bound on how many may begin in a minute: who is faster waits, and is refused in the end."""

    def __init__(self, per_minute: int, *, what: str, wait_s: float) -> None:
        """`per_minute` 0: any number. `what` they are, for the refusal."""
        self._limiter = AsyncLimiter(per_minute, _MINUTE_S) if per_minute else None
        self._per_minute = per_minute
        self._what = what
        self._wait_s = wait_s
        self._debt = 0

    def charge(self, count: int) -> None:
        """One that has begun costs as much as so many more; the next one waits for these too."""
        self._debt += count

    async def wait(self) -> None:
        """Until the next one is due, `wait_s` at most. Raises `TooFast`."""
        if self._limiter is None:
            return
        due = min(1 + self._debt, self._per_minute)
        try:
            async with asyncio.timeout(self._wait_s):
                await self._limiter.acquire(due)
        except TimeoutError as error:
            raise TooFast(f"more than {self._per_minute} {self._what} a minute") from error
        self._debt = max(self._debt - due + 1, 0)
