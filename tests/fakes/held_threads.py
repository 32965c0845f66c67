"""Threads of a loop that begin no work until a test says so."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any


class HeldThreads(ThreadPoolExecutor):
    """Work is taken at once; `asked` says that there is some, `let_go` lets it be done."""

    def __init__(self) -> None:
        super().__init__(max_workers=4)
        self.asked = asyncio.Event()
        self._gate = threading.Event()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.asked.set()
        return super().submit(self._held, fn, *args, **kwargs)

    def let_go(self) -> None:
        self._gate.set()

    def _held(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._gate.wait()
        return fn(*args, **kwargs)


@contextmanager
def held_threads() -> Iterator[HeldThreads]:
    """The threads of the running loop, which are let go at the end."""
    threads = HeldThreads()
    asyncio.get_running_loop().set_default_executor(threads)
    try:
        yield threads
    finally:
        threads.let_go()
