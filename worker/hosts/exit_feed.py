"""The exits of containers, handed to those who watch them.

Every container host has one feed. A host reports from any thread; a watcher reads in its loop.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import weakref
from collections import OrderedDict
from dataclasses import replace

from infra.runtime.logs import fields
from worker.hosts.host import ContainerExit, ContainerId

PENDING_MAX = 10_000
"""Exits a watcher may leave unread; beyond it the oldest is dropped, and `list()` tells the rest.
"""
REMEMBERED_MAX = 1000
"""Ends on purpose that are remembered until told, and ends told that are not told again."""

log = logging.getLogger(__name__)


class ExitStream:
    """One watcher's exits, from the moment it was made. Never ends by itself."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._pending: asyncio.Queue[ContainerExit] = asyncio.Queue(PENDING_MAX)

    def __aiter__(self) -> ExitStream:
        return self

    async def __anext__(self) -> ContainerExit:
        return await self._pending.get()

    def offer(self, ended: ContainerExit) -> None:
        """Add an exit. Never waits; callable from any thread."""
        try:
            self._loop.call_soon_threadsafe(self._add, ended)
        except RuntimeError:
            # The watcher's loop is closed: nobody is there to be told.
            log.debug("exit of a container after the end of its watcher")

    def _add(self, ended: ContainerExit) -> None:
        if self._pending.full():
            lost = self._pending.get_nowait()
            log.error("exit not read in time", extra=fields(conversation=lost.conversation))
        self._pending.put_nowait(ended)


class _Remembered(OrderedDict[ContainerId, bool]):
    """The last so many containers."""

    def add(self, id: ContainerId) -> None:
        self[id] = True
        if len(self) > REMEMBERED_MAX:
            self.popitem(last=False)


class ExitFeed:
    """Gives each exit to every stream that is still held by somebody."""

    def __init__(self) -> None:
        self._streams: weakref.WeakSet[ExitStream] = weakref.WeakSet()
        self._wanted = _Remembered()
        self._told = _Remembered()
        self._lock = threading.Lock()

    def subscribe(self) -> ExitStream:
        """A stream for the running loop; subscribed at once, not at the first read."""
        stream = ExitStream(asyncio.get_running_loop())
        with self._lock:
            self._streams.add(stream)
        return stream

    def expect_end(self, id: ContainerId) -> None:
        """This one is about to be ended on purpose: a kill will not mean lack of memory."""
        with self._lock:
            # One that had ended before tells nothing any more.
            self._wanted.add(id)

    def publish(self, ended: ContainerExit) -> None:
        """Tell every watcher, once per container. Callable from any thread."""
        with self._lock:
            if ended.id in self._told:
                return
            self._told.add(ended.id)
            if self._wanted.pop(ended.id, False):
                ended = replace(ended, is_out_of_memory=False)
            streams = tuple(self._streams)
        for stream in streams:
            stream.offer(ended)
