"""Signals: a program runs until it is told to stop. Also marks the processes of an `agcluster
up`."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

UP_MARK = "_AGCLUSTER_UP"
"""Set in the environment of every process below an `agcluster up`, including sandboxes: these must
not outlive it. It is not a setting; a program that is started any other way does not have it."""


def up_mark() -> dict[str, str]:
    """The mark to pass on to a process that gets no other variables of ours."""
    return {UP_MARK: os.environ[UP_MARK]} if UP_MARK in os.environ else {}


@contextmanager
def stop_signals() -> Iterator[asyncio.Event]:
    """An event that SIGTERM or SIGINT sets. For the outermost block of a program.

    A second signal has no further effect, because shutdown has its own time limit. Nor has one that
    comes after the block, while the process ends: a worker that was told to leave may be sent
    SIGTERM just then, and would report that it was killed.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)
    for number in signals:
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        # To remove a handler is to let the signal kill us, so none may arrive in between.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        for number in signals:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
