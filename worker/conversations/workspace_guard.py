"""The limit of one conversation's workspace, kept while its turns run.

Ends a turn that outgrows it and has the container killed without grace (`is_flooding`), for each
second of grace would be filled as well. What counts how is `worker.hosts.folders.workspace`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from infra.runtime.logs import fields
from infra.wire.endings import declared_end
from infra.wire.errors import ContainerFailed, ErrorCode
from infra.wire.ids import ConversationKey
from worker.conversations.session import HostSession
from worker.hosts.folders.workspace import (
    LAST_LOOK_MAX_S,
    MEASURE_MAX_S,
    WorkspacePace,
    WorkspaceWatch,
)
from worker.parts import HostParts
from worker.turns.run import TurnRun

log = logging.getLogger(__name__)


class WorkspaceGuard:
    """One conversation's; `watch` is its task."""

    def __init__(
        self,
        parts: HostParts,
        c: ConversationKey,
        session: HostSession,
        *,
        running: Callable[[], TurnRun | None],
    ) -> None:
        """`running` tells the turn that runs now."""
        self.is_flooding = False
        """A turn was ended for its writing, and the container that wrote is still there."""
        self._parts = parts
        self._session = session
        self._running = running
        folders = parts.folders.of(c)
        self._folder, self._sockets = folders.workspace, folders.sockets
        self._watch = WorkspaceWatch(max_bytes=parts.isolation.workspace_max_mb * 1024 * 1024)
        self._was_used = False

    def note_use(self) -> None:
        """A turn runs: it is looked at afterwards, however short it was."""
        self._was_used = True

    async def watch(self) -> None:
        """Look at its size while turns run, until cancelled."""
        parts = self._parts
        pace = WorkspacePace(
            parts.clock,
            every_s=parts.timings.workspace_every_s,
            glance_s=parts.timings.workspace_glance_s,
        )
        size_bytes = await self._measure()
        self._watch.judge(size_bytes, is_running=False)
        while True:
            await pace.wait(
                self._folder,
                room_bytes=self._watch.room_after(size_bytes),
                is_used=lambda: self._running() is not None,
            )
            was_used, self._was_used = self._was_used, self._running() is not None
            if was_used or self._running() is not None:
                size_bytes = await self._measure()
                self._judge(size_bytes)

    def _judge(self, size_bytes: int) -> None:
        run = self._running()
        if self._watch.judge(size_bytes, is_running=run is not None) and run:
            log.warning(
                "workspace too large", extra=fields(turn=run.turn, mb=size_bytes // 1024**2)
            )
            self.is_flooding = True
            run.declare(declared_end(ErrorCode.WORKSPACE_FULL), usable=False)

    async def after_flood(self, *, has_stopped: bool) -> None:
        """The container that wrote too much was told to end: see what it left.

        Nothing is removed from under one that did not.
        """
        self.is_flooding = False
        size_bytes = await self._measure(LAST_LOOK_MAX_S)
        self._watch.settle(size_bytes)
        if has_stopped and self._watch.is_abuse(size_bytes):
            await self._session.drop_workspace()

    async def _measure(self, patience_s: float = MEASURE_MAX_S) -> int:
        # The agent can write to both.
        size_bytes = await self._parts.gauge.measure(
            self._folder, self._sockets, patience_s=patience_s
        )
        return size_bytes + await self._unlinked()

    async def _unlinked(self) -> int:
        """What is in no folder any more, and held open."""
        if (container := self._session.container) is None:
            return 0
        try:
            return await self._parts.host.unlinked_bytes(container.id, self._folder)
        except ContainerFailed as error:
            log.info("open files not seen: %s", error)
            return 0
