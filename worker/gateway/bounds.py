"""Limits on how much may happen at the same time, and per minute."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from aiolimiter import AsyncLimiter

from infra.wire.errors import AgClusterError

_MINUTE_S = 60.0


class PlacesTaken(AgClusterError):
    """The limit of concurrent work is reached."""


class TooFast(AgClusterError):
    """The rate limit would make the caller wait longer than anybody waits."""


class Places:
    """A limit on concurrent work."""

    def __init__(self, places_max: int) -> None:
        self._places_max = places_max
        self._taken = 0

    @contextmanager
    def take(self, count: int = 1) -> Iterator[None]:
        """Raises `PlacesTaken` at once if fewer places are left."""
        if self._taken + count > self._places_max:
            raise PlacesTaken(f"at most {self._places_max} at once")
        self._taken += count
        try:
            yield
        finally:
            self._taken -= count


class Pace:
    """A limit on how many may begin per minute. Callers that are faster wait, and are refused in
    the end."""

    def __init__(self, per_minute: int, *, what: str, wait_s: float) -> None:
        """`per_minute` 0: no limit. `what` names what is limited, for the error."""
        self._limiter = AsyncLimiter(per_minute, _MINUTE_S) if per_minute else None
        self._per_minute = per_minute
        self._what = what
        self._wait_s = wait_s
        self._debt = 0

    def charge(self, count: int) -> None:
        """Count something that has begun as this many more; the next caller waits for these too."""
        self._debt += count

    async def wait(self) -> None:
        """Wait until the next one may begin, `wait_s` at most. Raises `TooFast`."""
        if self._limiter is None:
            return
        due = min(1 + self._debt, self._per_minute)
        try:
            async with asyncio.timeout(self._wait_s):
                await self._limiter.acquire(due)
        except TimeoutError as error:
            raise TooFast(f"more than {self._per_minute} {self._what} a minute") from error
        self._debt = max(self._debt - due + 1, 0)
