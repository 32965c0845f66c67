"""What is kept for a conversation on this host: its container, its folders, its sockets.

Starts, finds and clears them; says nothing to the agent and nothing to the record. Owned by the
conversation's actor (`worker.conversations.actor`), which alone calls it.

Everything done to the host is done while nobody else can own the conversation (`until_sure`), and
under the lease's fence, for a process can be frozen between any two lines. Folders are removed only
once it is known that no agent works in them any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from infra.runtime.logs import fields
from infra.store.conversations.conversations import ConversationStore
from infra.wire.errors import ContainerFailed, ErrorCode
from infra.wire.ids import ConversationKey, Fence
from worker.gateway_client.registrar import GatewayRegistrar
from worker.hosts.host import Container, ContainerExit, ContainerId
from worker.ownership import HeldLease
from worker.parts import HostParts
from worker.waiting import FIRST_PAUSE_S, LONGEST_PAUSE_S, until_store_answers

log = logging.getLogger(__name__)


class HostSession:
    """One conversation's."""

    def __init__(
        self,
        parts: HostParts,
        held: HeldLease,
        *,
        gateway: GatewayRegistrar,
        conversations: ConversationStore,
    ) -> None:
        self._container: Container | None = None
        self._lost: ContainerId | None = None
        self._parts = parts
        self._held = held
        self._gateway = gateway
        self._conversations = conversations
        self._early_exit: ContainerExit | None = None

    @property
    def conversation(self) -> ConversationKey:
        return self._held.conversation

    @property
    def container(self) -> Container | None:
        """The one that is ours, until it is let go of; it may be lost."""
        return self._container

    @property
    def is_lost(self) -> bool:
        """Whether there is a container that nothing can be done in any more."""
        return self._container is not None and self._container.id == self._lost

    def adopt(self, container: Container | None) -> None:
        """Go on with what was found here."""
        self._container = container

    def lose(self) -> None:
        """The container has ended, or its agent is given up."""
        self._lost = self._container.id if self._container else None

    async def start(self) -> None:
        """Sockets and a container.

        Raises `EngineFailed` and other `ContainerFailed`, `GatewayUnavailable`, `LeaseLost`.
        """
        parts, c, fence = self._parts, self.conversation, self._held.fence
        await self._held.until_sure()
        folders = await parts.engine.make_folders(c, fence)
        await self._gateway.open_session(c, sockets=folders.sockets, fence=fence)
        self._early_exit = None
        began_s = parts.clock.monotonic()
        await self._held.until_sure()
        self._container = started = await parts.engine.start(c, self._held.fence, folders)
        if (early := self._early()) and early.id == started.id:
            code = ErrorCode.OUT_OF_MEMORY if early.is_out_of_memory else ErrorCode.CONTAINER_FAILED
            raise ContainerFailed("the container ended at once", code=code)
        took_ms = int((parts.clock.monotonic() - began_s) * 1000)
        log.info(
            "container started",
            extra=fields(conversation=c, id=started.id, took_ms=took_ms),
        )

    def _early(self) -> ContainerExit | None:
        """Told while the start was under way; of an attribute mypy thinks it still is None."""
        return self._early_exit

    def has_ended(self, exit: ContainerExit) -> bool:
        """Whether it is our container that has ended. One that is still starting is remembered."""
        if self._container is None:
            self._early_exit = exit
            return False
        return self._container.id == exit.id

    def let_go(self) -> Container | None:
        """The container is nobody's from now on: it is to be stopped."""
        container, self._container = self._container, None
        return container

    async def clear(self, container: Container | None, *, at_once: bool = False) -> bool:
        """Stop a container that was let go of, and close the sockets; whether it has stopped.

        One that resists keeps its folders: the reconciler finds it as an orphan, and a next start
        removes it. Raises `LeaseLost`.
        """
        grace_s = 0.0 if at_once else self._parts.timings.stop_grace_s
        has_stopped = container is None or await self._has_stopped(container.id, grace_s)
        await self._close_sockets(and_folder=has_stopped)
        return has_stopped

    async def remove(self, container: Container) -> None:
        """Stop one beside ours that was left behind. Raises `LeaseLost`."""
        log.warning("leftover removed", extra={**self._fields(), "id": container.id})
        await self._has_stopped(container.id, 0.0)

    async def _has_stopped(self, id: ContainerId, grace_s: float) -> bool:
        """Stop it; False when it is not known to have ended. Raises `LeaseLost`."""
        parts = self._parts
        await self._held.until_sure()
        try:
            async with asyncio.timeout(grace_s + parts.timings.stop_max_s):
                await parts.host.stop(id, grace_s=grace_s)
        except (ContainerFailed, TimeoutError) as error:
            log.error("container not stopped: %r", error, extra=fields(id=id))
            return False
        return True

    async def found(self) -> Sequence[Container]:
        """What this host has of the conversation; nothing when the engine cannot say.

        It is asked for a while: what it does not show is given up, with the turn that runs in it.
        """
        host, clock = self._parts.host, self._parts.clock
        give_up_s = clock.monotonic() + self._parts.timings.relink_s
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                return [c for c in await host.list() if c.conversation == self.conversation]
            except ContainerFailed as error:
                log.warning("containers not listed: %s", error, extra=self._fields())
            if clock.monotonic() + pause_s > give_up_s:
                return []
            await clock.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    async def has_vanished(self, container: ContainerId) -> bool:
        """Whether the engine knows for sure that it does not run any more."""
        try:
            running = {c.id for c in await self._parts.host.list() if c.is_running}
        except ContainerFailed as error:
            log.warning("containers not listed: %s", error, extra=self._fields())
            return False
        return container not in running

    async def reopen(self) -> None:
        """Have the sockets of a container that runs already.

        Raises `GatewayUnavailable`, `ContainerFailed` and `LeaseLost`.
        """
        c, fence = self.conversation, self._held.fence
        await self._held.until_sure()
        try:
            folders = await asyncio.to_thread(self._parts.folders.take, c, fence)
        except OSError as error:
            raise ContainerFailed(f"its folders cannot be taken over: {error}") from error
        await self._gateway.open_session(c, sockets=folders.sockets, fence=fence)

    async def wipe_if_due(self) -> bool:
        """Remove what a deleted conversation of this name left here.

        Under the lease, so that nothing of a new one can be here yet. False when something resists:
        no turn may be served on it, and it is tried again with the next sweep. Raises `LeaseLost`.
        """
        parts, c = self._parts, self.conversation
        conversations, host = self._conversations, parts.host_id
        if not await until_store_answers(lambda: conversations.is_wipe_due(c, host), parts.clock):
            return True
        try:
            left = [one.id for one in await parts.host.list() if one.conversation == c]
        except ContainerFailed as error:
            log.error("deleted, not stopped: %s", error, extra=self._fields())
            return False
        for id in left:
            if not await self._has_stopped(id, 0.0):
                return False
        await self._close_sockets(and_folder=True)
        if not await self._drop(parts.folders.drop_workspace):
            log.error("deleted, but files resist", extra=self._fields())
            return False
        await self._held.until_sure()
        await until_store_answers(lambda: conversations.wiped(c, host), parts.clock)
        log.info("files of a deleted conversation removed", extra=self._fields())
        return True

    async def drop_workspace(self) -> None:
        """Remove the files of a conversation whose container has been stopped."""
        log.error("workspace removed: it took the host's disk", extra=self._fields())
        await self._drop(self._parts.folders.drop_workspace)

    async def _close_sockets(self, *, and_folder: bool) -> None:
        await self._held.until_sure()
        await self._gateway.close_session(self.conversation, self._held.fence)
        if and_folder:
            await self._drop(self._parts.folders.drop_sockets)

    async def _drop(self, drop: Callable[[ConversationKey, Fence], bool]) -> bool:
        """Remove a folder; False when it resists. Raises `LeaseLost`."""
        await self._held.until_sure()
        try:
            return await asyncio.to_thread(drop, self.conversation, self._held.fence)
        except OSError as error:
            log.error("folder not removed: %s", error, extra=self._fields())
            return False

    def _fields(self) -> dict[str, object]:
        return fields(conversation=self.conversation)
