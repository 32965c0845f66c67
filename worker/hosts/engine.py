"""Starts containers on this host while its engine works.

Every start goes through here and feeds the host's circuit breaker (`worker.hosts.breaker`). While
the breaker is open, starts are refused at once with `EngineFailed`, so that their turns return to
the queue, and the worker reports itself as failing (`on_change`), so that it gets no new ones. The
engine is tried with a container of our own, never with somebody's turn.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable

from infra.runtime.clock import Clock
from infra.runtime.logs import fields
from infra.runtime.settings import IsolationSettings
from infra.wire.errors import AgClusterError, EngineFailed
from infra.wire.ids import ConversationKey, Fence, WorkerId
from worker.hosts.breaker import Breaker, BreakerState, cool_down_s
from worker.hosts.folders.folders import Folders
from worker.hosts.form import USUAL_FORM, ContainerForm
from worker.hosts.host import Container, ContainerHost, ContainerSpec, Limits, SessionFolders

log = logging.getLogger(__name__)

_OF_NOBODY = 2**52
"""Makes a probe's fence newer than any in Redis, so that its remains are never mistaken for a
container that Redis forgot. A fence from this machine's clock alone could be, if the clock is
behind."""


def fence_of_nobody(clock: Clock) -> Fence:
    """The fence of a container that belongs to no conversation."""
    return Fence(_OF_NOBODY + clock.unix_ms() * 1000)


class Engine:
    """One worker's view of its host's engine. `run` is its task."""

    def __init__(
        self,
        host: ContainerHost,
        folders: Folders,
        settings: IsolationSettings,
        clock: Clock,
        *,
        worker: WorkerId,
        has_egress: bool,
        cool_down_s: float,
        cool_down_max_s: float,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """`has_egress`: whether agents may have network access. `on_change` is called when the
        engine stops or starts to be trusted."""
        self._host = host
        self._folders = folders
        self._settings = settings
        self._has_egress = has_egress
        self._clock = clock
        self._probe_key = ConversationKey(hashlib.sha256(worker.encode()).hexdigest()[:24])
        self._cool_down_s = cool_down_s
        self._cool_down_max_s = cool_down_max_s
        self._on_change = on_change
        self._breaker = Breaker()
        self._opened = asyncio.Event()

    @property
    def is_trusted(self) -> bool:
        """Whether containers are started here."""
        return self._breaker.is_closed

    async def make_folders(
        self,
        c: ConversationKey,
        fence: Fence,
        *,
        launch: bytes | None = None,
        form: ContainerForm = USUAL_FORM,
    ) -> SessionFolders:
        """Create the conversation's folders, private to the agent. `launch` is what its launch file
        says, if it gets one. An empty workspace gets the files of the form's bundle.

        Raises `LeaseLost` if a newer owner has them, and `EngineFailed` if a disk is full.
        """
        self._refuse_if_open()
        try:
            return await asyncio.to_thread(self._made, c, fence, launch, form)
        except OSError as error:
            failed = EngineFailed(f"no folders for a conversation: {error}")
            self._note(self._breaker.start_failed(), failed)
            raise failed from error

    def _made(
        self, c: ConversationKey, fence: Fence, launch: bytes | None, form: ContainerForm
    ) -> SessionFolders:
        made = self._folders.make(c, fence, launch=launch)
        files = self._folders.bundles.files(form.bundle) if form.bundle is not None else None
        if files is not None and self._folders.furnish(c, fence, files):
            log.info("workspace furnished", extra=fields(conversation=c))
        return self._folders.formed(made, form)

    async def start(
        self,
        c: ConversationKey,
        fence: Fence,
        folders: SessionFolders,
        form: ContainerForm = USUAL_FORM,
    ) -> Container:
        """Start a container for the conversation, of that form.

        Raises `EngineFailed`, at once while the engine is not trusted; otherwise `ContainerFailed`
        and `LeaseLost` like the host. If cancelled, nothing is left behind.
        """
        self._refuse_if_open()
        try:
            container = await self._start(c, fence, folders, form)
        except EngineFailed as error:
            self._note(self._breaker.start_failed(), error)
            raise
        self._note(self._breaker.start_worked())
        return container

    async def run(self) -> None:
        """Try the engine again after each cool-down, until cancelled."""
        while True:
            await self._opened.wait()
            self._opened.clear()
            wait_s = cool_down_s(
                self._breaker.trips, first_s=self._cool_down_s, longest_s=self._cool_down_max_s
            )
            await self._clock.sleep(wait_s)
            self._note(self._breaker.probing())
            try:
                await self._probe()
            except (AgClusterError, OSError) as error:
                self._note(self._breaker.probe_failed(), error)
            else:
                self._note(self._breaker.probe_worked())

    async def _start(
        self,
        c: ConversationKey,
        fence: Fence,
        folders: SessionFolders,
        form: ContainerForm = USUAL_FORM,
    ) -> Container:
        settings = self._settings
        spec = ContainerSpec(
            conversation=c,
            fence=fence,
            folders=folders,
            limits=Limits(
                cpus=settings.container_cpus,
                start_cpus=settings.container_start_cpus,
                memory_mb=settings.container_memory_mb,
                pids=settings.container_pids,
                tmp_mb=settings.container_tmp_mb,
                file_mb=settings.workspace_max_mb,
            ).within(form),
            egress=self._has_egress,
            form=form,
        )
        try:
            async with asyncio.timeout(settings.container_start_timeout_s):
                return await self._host.start(spec)
        except TimeoutError as error:
            raise EngineFailed("the container did not start in time") from error

    async def _probe(self) -> None:
        """Check the engine, then start and stop a container that belongs to no conversation.

        If the worker dies meanwhile, the orphan is stopped by the reconcilers.
        """
        key = self._probe_key
        async with asyncio.timeout(self._settings.container_start_timeout_s):
            await self._host.check()
        fence = fence_of_nobody(self._clock)
        folders = await asyncio.to_thread(self._folders.make, key, fence)
        container = await self._start(key, fence, folders)
        await self._host.stop(container.id, grace_s=0)
        # Not after a failure, because nobody knows what runs there. The next try uses the same key.
        await asyncio.to_thread(self._folders.drop_sockets, key, fence)
        await asyncio.to_thread(self._folders.drop_workspace, key, fence)

    def _refuse_if_open(self) -> None:
        if not self.is_trusted:
            raise EngineFailed("this host's engine does not start containers at the moment")

    def _note(self, new: Breaker, error: BaseException | None = None) -> None:
        old, self._breaker = self._breaker, new
        if old.state is new.state:
            if error is not None:
                log.warning("engine: %s", error, extra=fields(failures=new.failures))
            return
        match new.state:
            case BreakerState.OPEN if old.is_closed:
                log.error("engine failing: %s", error, extra=fields(failures=new.failures))
                self._opened.set()
            case BreakerState.OPEN:
                log.warning("engine still failing: %s", error, extra=fields(trips=new.trips))
                self._opened.set()
            case BreakerState.HALF_OPEN:
                log.info("engine tried again", extra=fields(trips=new.trips))
            case BreakerState.CLOSED:
                log.warning("engine works again", extra=fields(trips=old.trips))
        if old.is_closed or new.is_closed:
            self._on_change()
