"""What goes wrong with Redis, and how long to wait before trying again."""

from __future__ import annotations

import random
from collections.abc import Iterator

from redis.exceptions import RedisError

FAULTS: tuple[type[Exception], ...] = (RedisError, OSError, TimeoutError)
"""What redis-py raises if Redis is unavailable, slow, full or read-only."""


def delays(*, first_s: float = 0.05, most_s: float = 2.0) -> Iterator[float]:
    """Pauses between attempts, without end: doubling up to a limit, with jitter."""
    delay = first_s
    while True:
        yield delay * random.uniform(0.5, 1.0)
        delay = min(delay * 2, most_s)
