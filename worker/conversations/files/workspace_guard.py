"""Enforces the limit of one conversation's workspace while its turns run.

A turn that exceeds it is ended, and its container is killed without grace time (`is_flooding`),
because it would fill that time with writing as well. `worker.hosts.folders.workspace` defines what
counts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from infra.runtime.logs import fields
from infra.wire.endings import declared_end
from infra.wire.errors import ContainerFailed, ErrorCode
from infra.wire.ids import ConversationKey
from worker.conversations.container.session import HostSession
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
    """The guard of one conversation; `watch` is its task."""

    def __init__(
        self,
        parts: HostParts,
        c: ConversationKey,
        session: HostSession,
        *,
        running: Callable[[], TurnRun | None],
    ) -> None:
        """`running` returns the current turn."""
        self.is_flooding = False
        """Whether a turn was ended because of its writing, and its container still exists."""
        self._parts = parts
        self._session = session
        self._running = running
        folders = parts.folders.of(c)
        self._folder, self._sockets = folders.workspace, folders.sockets
        self._max_mb = parts.isolation.workspace_max_mb
        self._watch = WorkspaceWatch(max_bytes=self._max_mb * 1024 * 1024)
        self._was_used = False

    def note_use(self, *, own_max_mb: int | None = None) -> None:
        """A turn runs: the workspace is measured afterwards, however short the turn is.
        `own_max_mb` is what its agent's profile allows, if that says it."""
        self._watch.limit(min(own_max_mb or self._max_mb, self._max_mb) * 1024 * 1024)
        self._was_used = True

    async def watch(self) -> None:
        """Measure its size while turns run, until cancelled."""
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
        """The container that wrote too much was told to end: check what it left.

        Nothing is removed while it may still be running.
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
        if self._watch.is_over(size_bytes):
            return size_bytes  # Enough is known; a slow engine must not delay the end of the turn.
        return size_bytes + await self._unlinked()

    async def _unlinked(self) -> int:
        """Bytes of files that are in no folder but still open."""
        if (container := self._session.container) is None:
            return 0
        try:
            return await self._parts.host.unlinked_bytes(container.id, self._folder)
        except ContainerFailed as error:
            log.info("open files not seen: %s", error)
            return 0
