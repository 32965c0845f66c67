"""A conversation's resources on this host: its container, its folders, its sockets.

It starts, finds and removes them; it does not talk to the agent or change the record. Only the
conversation's actor (`worker.conversations.actor`) uses it.

Everything on the host is done while nobody else can own the conversation (`until_sure`), and under
the lease's fence, because a process can be frozen between any two lines. Folders are removed only
when it is certain that no agent works in them any longer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from infra.runtime.logs import fields
from infra.store.conversations.conversations import ConversationStore
from infra.wire.errors import ContainerFailed, ErrorCode
from infra.wire.ids import ConversationKey, Fence
from infra.wire.link import AgentSettings
from worker.gateway_client.registrar import GatewayRegistrar
from worker.hosts.form import USUAL_FORM, ContainerForm
from worker.hosts.host import Container, ContainerExit, ContainerId
from worker.ownership import HeldLease
from worker.parts import HostParts
from worker.turns.start_timeline import Note, StartPhase, unnoted
from worker.waiting import FIRST_PAUSE_S, LONGEST_PAUSE_S, until_store_answers

log = logging.getLogger(__name__)


class HostSession:
    """The resources of one conversation."""

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
        """Our container, until it is released with `let_go`; it may be lost."""
        return self._container

    @property
    def is_lost(self) -> bool:
        """Whether there is a container that can no longer be used."""
        return self._container is not None and self._container.id == self._lost

    def adopt(self, container: Container | None) -> None:
        """Continue with what was found here."""
        self._container = container

    def lose(self) -> None:
        """The container has ended, or its agent was given up."""
        self._lost = self._container.id if self._container else None

    def is_formed(self, form: ContainerForm) -> bool:
        """Whether a turn that wants a container of this form may run in ours. If there is none, one
        of that form is made."""
        return self._container is None or self._container.form == form

    async def start(
        self,
        *,
        form: ContainerForm = USUAL_FORM,
        launch: bytes | None = None,
        note: Note = unnoted,
    ) -> None:
        """Create sockets and a container of that form. `launch` is for the agent's launch file;
        `note` is told when the start's phases are reached.

        Raises `EngineFailed` and other `ContainerFailed`, `GatewayUnavailable`, `LeaseLost`.
        """
        parts, c, fence = self._parts, self.conversation, self._held.fence
        began_s = parts.clock.monotonic()
        await self._held.until_sure()
        await parts.pool.end_claims_of(c, fence)
        folders = await parts.engine.make_folders(c, fence, launch=launch, form=form)
        note(StartPhase.FOLDERS)
        await self._gateway.open_session(c, sockets=folders.sockets, fence=fence)
        note(StartPhase.GATEWAY)
        self._early_exit = None
        await self._held.until_sure()
        self._container = started = await parts.engine.start(c, self._held.fence, folders, form)
        note(StartPhase.STARTED)
        if (early := self._early()) and early.id == started.id:
            code = ErrorCode.OUT_OF_MEMORY if early.is_out_of_memory else ErrorCode.CONTAINER_FAILED
            raise ContainerFailed("the container ended at once", code=code)
        took_ms = round((parts.clock.monotonic() - began_s) * 1000)
        told = fields(conversation=c, id=started.id, took_ms=took_ms)
        log.info("container started", extra=told)

    async def claim_spare(self, settings: AgentSettings) -> Container | None:
        """A spare with the conversation's folders, sockets and files; None if there is none.

        It becomes the conversation's with `take_spare`, or goes with `drop_spare`. Raises
        `LeaseLost` and `GatewayUnavailable`.
        """
        parts, c, fence = self._parts, self.conversation, self._held.fence
        await self._held.until_sure()
        self._early_exit = None
        claimed = await parts.pool.claim(c, fence, settings)
        if claimed is not None:
            try:
                sockets = parts.folders.of(c).sockets
                await self._gateway.open_session(c, sockets=sockets, fence=fence)
            except BaseException:
                await self.drop_spare(claimed)
                raise
        return claimed

    def take_spare(self, claimed: Container) -> bool:
        """Continue with a claimed spare. False if it has ended meanwhile."""
        if (early := self._early()) and early.id == claimed.id:
            return False
        self._container = claimed
        log.info("spare claimed", extra={**self._fields(), "id": claimed.id})
        return True

    async def drop_spare(self, claimed: Container) -> None:
        """Remove a claimed spare that is of no use. Raises `LeaseLost`."""
        self._parts.pool.note_useless()
        await self._has_stopped(claimed.id, 0.0)

    def _early(self) -> ContainerExit | None:
        """An exit that was reported while the start was in progress; mypy thinks that the attribute
        is still None."""
        return self._early_exit

    def has_ended(self, exit: ContainerExit) -> bool:
        """Whether our container has ended. The exit of one that is still starting is remembered."""
        if self._container is None:
            self._early_exit = exit
            return False
        return self._container.id == exit.id

    def let_go(self) -> Container | None:
        """The container no longer belongs to the conversation: it has to be stopped."""
        container, self._container = self._container, None
        return container

    async def clear(self, container: Container | None, *, at_once: bool = False) -> bool:
        """Stop a released container and close the sockets. Returns whether it has stopped.

        If it does not stop, its folders are kept: the reconciler finds it as an orphan, and the
        next start removes it. Raises `LeaseLost`.
        """
        grace_s = 0.0 if at_once else self._parts.timings.stop_grace_s
        has_stopped = container is None or await self._has_stopped(container.id, grace_s)
        await self._close_sockets(and_folder=has_stopped)
        return has_stopped

    async def remove(self, container: Container) -> None:
        """Stop another container that was left behind. Raises `LeaseLost`."""
        log.warning("leftover removed", extra={**self._fields(), "id": container.id})
        await self._has_stopped(container.id, 0.0)

    async def _has_stopped(self, id: ContainerId, grace_s: float) -> bool:
        """Stop it; False if it is not known to have ended. Raises `LeaseLost`."""
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
        """What this host has of the conversation; nothing if the engine cannot say.

        Retries for a while. Containers that it does not show are given up, with their running turn.
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
        """Whether the engine is certain that it no longer runs."""
        try:
            running = {c.id for c in await self._parts.host.list() if c.is_running}
        except ContainerFailed as error:
            log.warning("containers not listed: %s", error, extra=self._fields())
            return False
        return container not in running

    async def reopen(self) -> None:
        """Open the sockets of a container that already runs.

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

        Called under the lease, so that nothing of a new one can be here yet. False if something
        could not be removed: then no turn may run on it, and the next sweep tries again. Raises
        `LeaseLost`.
        """
        parts, c = self._parts, self.conversation
        conversations, host = self._conversations, parts.host_id
        if not await until_store_answers(lambda: conversations.is_wipe_due(c, host), parts.clock):
            return True
        await self._held.until_sure()
        try:
            # A claim that broke off would bring files back later.
            await parts.pool.end_claims_of(c, self._held.fence)
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
        """Remove the files of a conversation whose container was stopped."""
        log.error("workspace removed: it took the host's disk", extra=self._fields())
        await self._drop(self._parts.folders.drop_workspace)

    async def _close_sockets(self, *, and_folder: bool) -> None:
        await self._held.until_sure()
        await self._gateway.close_session(self.conversation, self._held.fence)
        if and_folder:
            await self._drop(self._parts.folders.drop_sockets)

    async def _drop(self, drop: Callable[[ConversationKey, Fence], bool]) -> bool:
        """Remove a folder; False if that fails. Raises `LeaseLost`."""
        await self._held.until_sure()
        try:
            return await asyncio.to_thread(drop, self.conversation, self._held.fence)
        except OSError as error:
            log.error("folder not removed: %s", error, extra=self._fields())
            return False

    def _fields(self) -> dict[str, object]:
        return fields(conversation=self.conversation)
