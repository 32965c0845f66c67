"""The Redis pool: deadlines on everything, TLS with host name check, JSON-friendly, nothing shared
between requests. `translate()` turns redis-py's errors into ours at the seam."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from redis.asyncio import Redis


def connect(url: str, *, timeout_s: float, name: str) -> Redis:
    """A client with a pool of its own. Connects on first use; `aclose()` it.

    `decode_responses` is off: values are bytes. Raises `ValueError` for a URL that is none.
    """
    raise NotImplementedError


@contextmanager
def translate() -> Iterator[None]:
    """Redis and socket errors inside become `StoreUnavailable`."""
    raise NotImplementedError
    yield
