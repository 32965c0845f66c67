"""Signals: a program runs until it is told to stop. And what tells whose process one is."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

UP_MARK = "_AGCLUSTER_UP"
"""In the environment of every process below an `agcluster up`, sandboxes too: what may not outlive
it. No setting, and a program started any other way has none."""


def up_mark() -> dict[str, str]:
    """Our mark, for the environment of a process that gets nothing else of ours."""
    return {UP_MARK: os.environ[UP_MARK]} if UP_MARK in os.environ else {}


@contextmanager
def stop_signals() -> Iterator[asyncio.Event]:
    """An event that SIGTERM or SIGINT sets.

    A second signal does nothing more: shutdown is bounded.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)
    for number in signals:
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
