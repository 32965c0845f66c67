"""What every program that uses the file store counts about it."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from infra.metrics.families import counter, histogram
from infra.wire.errors import FileStoreUnavailable

P = ParamSpec("P")
T = TypeVar("T")

_OPERATIONS = ("put", "put_new", "read", "whole", "delete")

CALLS = histogram(
    "file_store_call_duration",
    "Calls of the file store, by operation.",
    buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 30, 60),
    operation=_OPERATIONS,
)
FAILURES = counter(
    "file_store_failures",
    "Calls of the file store that failed.",
    operation=_OPERATIONS,
)


def counted_file_call(
    method: Callable[P, Coroutine[Any, Any, T]],
) -> Callable[P, Coroutine[Any, Any, T]]:
    """Times a method of the file store, and counts its failures."""
    seconds = CALLS.labels(method.__name__)
    failures = FAILURES.labels(method.__name__)

    @wraps(method)
    async def counted(*args: P.args, **kwargs: P.kwargs) -> T:
        began_s = time.perf_counter()
        try:
            return await method(*args, **kwargs)
        except FileStoreUnavailable:
            failures.inc()
            raise
        finally:
            seconds.observe(time.perf_counter() - began_s)

    return counted
