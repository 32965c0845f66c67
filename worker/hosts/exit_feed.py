"""Distributes the exits of containers to their watchers.

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
"""Unread exits of one watcher. Beyond this the oldest is dropped; `list()` shows the state."""
REMEMBERED_MAX = 1000
"""How many intended ends, and how many reported ends, are remembered."""

log = logging.getLogger(__name__)


class ExitStream:
    """One watcher's exits, from the moment of its creation. Never ends on its own."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._pending: asyncio.Queue[ContainerExit] = asyncio.Queue(PENDING_MAX)

    def __aiter__(self) -> ExitStream:
        return self

    async def __anext__(self) -> ContainerExit:
        return await self._pending.get()

    def offer(self, ended: ContainerExit) -> None:
        """Add an exit. Never waits; can be called from any thread."""
        try:
            self._loop.call_soon_threadsafe(self._add, ended)
        except RuntimeError:
            # The watcher's loop is closed; nobody listens.
            log.debug("exit of a container after the end of its watcher")

    def _add(self, ended: ContainerExit) -> None:
        if self._pending.full():
            lost = self._pending.get_nowait()
            log.error("exit not read in time", extra=fields(conversation=lost.conversation))
        self._pending.put_nowait(ended)


class _Remembered(OrderedDict[ContainerId, bool]):
    """The most recent containers, up to a number."""

    def add(self, id: ContainerId) -> None:
        self[id] = True
        if len(self) > REMEMBERED_MAX:
            self.popitem(last=False)


class ExitFeed:
    """Passes each exit to every stream that somebody still holds."""

    def __init__(self) -> None:
        self._streams: weakref.WeakSet[ExitStream] = weakref.WeakSet()
        self._wanted = _Remembered()
        self._told = _Remembered()
        self._lock = threading.Lock()

    def subscribe(self) -> ExitStream:
        """A stream for the running loop. It is subscribed at once, not at the first read."""
        stream = ExitStream(asyncio.get_running_loop())
        with self._lock:
            self._streams.add(stream)
        return stream

    def expect_end(self, id: ContainerId) -> None:
        """This container is about to be ended on purpose, so a kill will not mean lack of
        memory."""
        with self._lock:
            # A container that had already ended is not reported again.
            self._wanted.add(id)

    def publish(self, ended: ContainerExit) -> None:
        """Report to every watcher, once per container. Can be called from any thread."""
        with self._lock:
            if ended.id in self._told:
                return
            self._told.add(ended.id)
            if self._wanted.pop(ended.id, False):
                ended = replace(ended, is_out_of_memory=False)
            streams = tuple(self._streams)
        for stream in streams:
            stream.offer(ended)
