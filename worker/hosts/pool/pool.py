"""The warm pool of one worker: makes spares, hands them out, and removes them again.

A spare is a container with a connected CLI that belongs to nobody: no key, no files, no sockets
but its own. A conversation that needs a container claims one; its folders become the
conversation's, and the gateway opens its sockets only then. Spares are made one at a time, when no
conversation starts here. `run` is the pool's task; `claim` may be called from any other.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from infra.runtime.clock import Clock
from infra.runtime.logs import fields
from infra.runtime.settings.agents import PoolSettings
from infra.wire.errors import AgClusterError, ContainerFailed
from infra.wire.ids import ConversationKey, Fence, WorkerId
from infra.wire.link import AgentSettings
from worker.hosts.capacity import HostMemory
from worker.hosts.engine import Engine, fence_of_nobody
from worker.hosts.folders.moves import TooManyEntries
from worker.hosts.host import Container, ContainerId, SessionFolders
from worker.hosts.pool.host import FoundSpare, PooledHost
from worker.hosts.pool.records import NotToBeHad
from worker.hosts.pool.sizing import DEMAND_WINDOW_S, PoolFacts, wanted_spares
from worker.hosts.start_slots import SPARE_START_S, Starts
from worker.waiting import signalled

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
TIDY_EVERY_S = 30.0
REST_S = 2.0
"""After a conversation has asked, its next turn may follow at once: nothing is made for so long."""
PATIENCE_S = 10.0
"""Running turns delay the making of a spare by no more than this, or there would never be one."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 2.0, 120.0
"""Between two tries after a spare could not be made."""
REMOVE_S = 60.0
SOON_S = 2.0
"""A conversation waits no longer than this for a spare whose container runs already."""


class PreparedAgent(Protocol):
    """The link to a spare's agent, which keeps it from leaving."""

    @property
    def is_open(self) -> bool:
        """Whether the agent is still there."""
        ...

    def close(self) -> None:
        """Hang up."""
        ...


PrepareSpare = Callable[[SessionFolders, AgentSettings], Awaitable[PreparedAgent]]
"""Waits for the agent in these folders, and has it connect a CLI. Raises `AgentUnreachable`."""


@dataclass(frozen=True)
class PoolNeeds:
    """What the pool is told by the rest of the worker."""

    settings: AgentSettings
    """What spares are prepared for: the settings of most turns."""
    free_slots: Callable[[], int]
    running: Callable[[], int]
    """Turns that run. A spare would take CPU from them."""
    memory_mark_mb: int
    """Spares go before less memory than this is available."""
    living: Callable[[set[WorkerId]], Awaitable[frozenset[WorkerId]]]


@dataclass(frozen=True)
class Spare:
    """A spare that is ready."""

    key: ConversationKey
    container: Container
    settings: AgentSettings
    link: PreparedAgent
    made_s: float


@dataclass
class SpareInTheMaking:
    """A spare that is not ready yet."""

    key: ConversationKey
    settings: AgentSettings
    has_container: bool = False
    """What is left is done sooner than a start, which does the same after its container."""
    is_waited_for: bool = False
    over: asyncio.Event = field(default_factory=asyncio.Event)
    """It is ready, or will not be."""

    def serves(self, settings: AgentSettings) -> bool:
        """Whether a conversation that starts now has it sooner than a container of its own."""
        is_fitting = self.settings.spare_class == settings.spare_class
        return self.has_container and is_fitting and not self.over.is_set()


class WarmPool:
    """The spares of one worker."""

    def __init__(
        self,
        host: PooledHost,
        engine: Engine,
        starts: Starts,
        memory: HostMemory,
        clock: Clock,
        settings: PoolSettings,
        *,
        worker: WorkerId,
        prepare: PrepareSpare,
        needs: PoolNeeds,
    ) -> None:
        self.hits = 0
        """Conversations that got a spare."""
        self.misses = 0
        """Conversations that found none while the pool was on."""
        self._host = host
        self._engine = engine
        self._starts = starts
        self._memory = memory
        self._clock = clock
        self._settings = settings
        self._worker = worker
        self._prepare = prepare
        self._needs = needs
        self._ready: list[Spare] = []
        self._making: SpareInTheMaking | None = None
        self._expected = set[ConversationKey]()
        """Conversations that are about to ask for a spare."""
        self._asked_s: deque[float] = deque()
        self._wake = asyncio.Event()
        self._is_closed = False
        self._group: asyncio.TaskGroup | None = None
        self._work: asyncio.Task[None] | None = None
        """The making of a spare."""
        self._removals = set[asyncio.Task[None]]()
        self._pause_s = 0.0
        self._not_before_s = 0.0
        self._lacking_since_s = clock.monotonic()

    @property
    def is_on(self) -> bool:
        """Whether this worker has spares at all."""
        return self._settings.spares_max > 0

    @property
    def spares(self) -> int:
        """How many are ready."""
        return len(self._ready)

    @property
    def free_spares(self) -> int:
        """How many are ready that no conversation here is about to claim."""
        there = sum(spare.link.is_open for spare in self._ready)
        return max(0, there - len(self._expected))

    async def keys(self) -> frozenset[ConversationKey]:
        """The keys of this host's spares, under which there are folders of no conversation. Raises
        `OSError`."""
        return await self._host.spare_keys()

    # A conversation's side

    def expect(self, c: ConversationKey) -> None:
        """The conversation is being placed here and may need a container, until `settle` or its
        claim."""
        self._expected.add(c)

    def settle(self, c: ConversationKey) -> None:
        """The conversation needs no spare, or goes. Harmless if it was not expected."""
        self._expected.discard(c)

    async def claim(
        self, c: ConversationKey, fence: Fence, settings: AgentSettings
    ) -> Container | None:
        """A spare that is now the conversation's container, with the conversation's files in it;
        None if there is none to be had. Waits up to `SOON_S` for one in the making that serves.

        Its agent listens, and its sockets are not open yet. Raises `LeaseLost`. If cancelled, the
        conversation has no container.
        """
        try:
            await self._wait_for_one(settings)
        finally:
            self.settle(c)
        while (spare := self._next(settings)) is not None:
            try:
                container = await self._host.claim(spare.container, c, fence, by=self._worker)
            except TooManyEntries as error:
                told = fields(conversation=c, spare=spare.key)
                log.info("spare not claimed: %s", error, extra=told)
                self._put_back(spare)
                break
            except (OSError, ContainerFailed) as error:
                told = fields(conversation=c, spare=spare.key)
                log.warning("spare not claimed: %s", error, extra=told)
                self._discard_soon(spare)
                if not isinstance(error, NotToBeHad):
                    break  # The next one would not get its files either.
            except BaseException:
                self._discard_soon(spare)
                raise
            else:
                spare.link.close()
                self.hits += 1
                return container
        self.misses += 1
        return None

    async def end_claims_of(self, c: ConversationKey, fence: Fence) -> None:
        """Before the conversation's folders are used without a claim: finish earlier claims of it.
        Raises `LeaseLost` and `ContainerFailed`."""
        await self._host.end_claims_of(c, fence)

    def has_one(self, c: ConversationKey, settings: AgentSettings) -> bool:
        """Whether there may be a spare for a conversation that needs a container now, or soon
        enough."""
        if not self.is_on:
            return False
        self._asked_s.append(self._clock.monotonic())
        making = self._making
        is_there = any(spare.link.is_open for spare in self._ready)
        comes = making is not None and making.serves(settings) and not making.is_waited_for
        if not (found := is_there or comes):
            self.settle(c)
            self.misses += 1
            self._wake.set()
        return found

    async def _wait_for_one(self, settings: AgentSettings) -> None:
        """If there is none, but one in the making that nobody waits for, wait for that one."""
        making = self._making
        if making is None or making.is_waited_for or not making.serves(settings):
            return
        if any(spare.link.is_open for spare in self._ready):
            return
        making.is_waited_for = True
        await signalled(making.over, self._clock, timeout_s=SOON_S)

    def note_useless(self) -> None:
        """A claimed spare did not answer, and its conversation starts without it."""
        self.hits -= 1
        self.misses += 1

    def ended(self, id: ContainerId) -> None:
        """A container ended that nobody has claimed."""
        for spare in [one for one in self._ready if one.container.id == id]:
            log.warning("spare ended", extra=fields(spare=spare.key, id=id))
            self._take(spare)
            self._discard_soon(spare)

    def _next(self, settings: AgentSettings) -> Spare | None:
        """The oldest spare for these settings, or one whose CLI will be replaced."""
        there = [spare for spare in self._ready if spare.link.is_open]
        fitting = [s for s in there if s.settings.spare_class == settings.spare_class]
        for spare in (*fitting, *there):
            self._take(spare)
            self._wake.set()
            return spare
        return None

    def _put_back(self, spare: Spare) -> None:
        """It is untouched. If it ended meanwhile, it is removed with the next look."""
        if self._is_closed:
            self._discard_soon(spare)
            return
        self._ready.insert(0, spare)
        self._memory.spares = len(self._ready)

    def _take(self, spare: Spare) -> None:
        self._ready.remove(spare)
        self._memory.spares = len(self._ready)

    # The pool's side

    async def run(self) -> None:
        """Keep the pool at its size, until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            tidied_s = float("-inf")
            try:
                while True:
                    if self._clock.monotonic() - tidied_s >= TIDY_EVERY_S:
                        await self._tidy()
                        tidied_s = self._clock.monotonic()
                    if not self._is_closed:
                        self._look()
                    self._wake.clear()
                    await signalled(self._wake, self._clock, timeout_s=LOOK_EVERY_S)
            finally:
                self._group = None

    async def close(self) -> None:
        """Remove all spares, because the worker leaves. Takes bounded time."""
        self._is_closed = True
        if self._work is not None:
            self._work.cancel()
            await asyncio.wait({self._work}, timeout=REMOVE_S)
        for spare in list(self._ready):
            self._take(spare)
            self._discard_soon(spare)
        if self._removals:
            # Each of them gives up by itself. One that is cancelled leaves its container.
            await asyncio.wait(self._removals)

    async def found(self) -> Sequence[FoundSpare]:
        """The unclaimed spares of this host, of all its workers. Raises `ContainerFailed` and
        `OSError`."""
        return await self._host.spares()

    async def remove_all(self, found: Sequence[FoundSpare]) -> None:
        """Remove spares that were found, except those that were claimed since. Takes bounded
        time."""
        async with asyncio.TaskGroup() as group:
            for one in found:
                group.create_task(self._remove(one.record.spare, one.container))

    def _look(self) -> None:
        """Do one thing about the number of spares, if something is to be done."""
        is_at_work = self._work is not None and not self._work.done()
        if self._group is None or is_at_work or self._removals:
            return
        now_s = self._clock.monotonic()
        while self._asked_s and now_s - self._asked_s[0] > DEMAND_WINDOW_S:
            self._asked_s.popleft()
        wanted = wanted_spares(
            PoolFacts(
                least=self._settings.spares_min,
                most=self._settings.spares_max,
                recent_starts=len(self._asked_s),
                free_slots=self._needs.free_slots(),
                spares=len(self._ready),
                spare_memory_mb=self._memory.beyond_mb(self._needs.memory_mark_mb),
            )
        )
        if (old := self._unwanted(wanted, now_s)) is not None:
            self._take(old)
            self._discard_soon(old)
        elif len(self._ready) >= wanted:
            self._lacking_since_s = now_s
        elif self._may_make(now_s):
            self._work = self._group.create_task(self._make())

    def _unwanted(self, wanted: int, now_s: float) -> Spare | None:
        """A spare to be removed: too old, without its agent, or one too many."""
        for spare in self._ready:
            is_old = now_s - spare.made_s > self._settings.spare_max_age_s
            if is_old or not spare.link.is_open:
                return spare
        return self._ready[0] if len(self._ready) > wanted else None

    def _may_make(self, now_s: float) -> bool:
        if not self._engine.is_trusted or self._starts.is_busy or now_s < self._not_before_s:
            return False
        if now_s - self._lacking_since_s > PATIENCE_S:
            return True
        asked_s = self._asked_s[-1] if self._asked_s else float("-inf")
        return now_s - asked_s > REST_S and not self._needs.running()

    async def _make(self) -> None:
        key = ConversationKey(secrets.token_hex(12))
        self._making = making = SpareInTheMaking(key, self._needs.settings)
        try:
            if await self._starts.begin_spare(key):
                async with asyncio.TaskGroup() as group:
                    keeping = group.create_task(self._keep_slot(key))
                    await self._make_ready(making)
                    keeping.cancel()
        finally:
            making.over.set()
            self._making = None
            await self._starts.end_spare(key)

    async def _keep_slot(self, key: ConversationKey) -> None:
        while True:
            await self._clock.sleep(SPARE_START_S / 3)
            await self._starts.begin_spare(key)

    async def _make_ready(self, making: SpareInTheMaking) -> None:
        key, settings, began_s = making.key, making.settings, self._clock.monotonic()
        container: Container | None = None
        try:
            await self._host.make(key, self._worker)
            fence = fence_of_nobody(self._clock)
            folders = await self._engine.make_folders(key, fence)
            container = await self._engine.start(key, fence, folders)
            making.has_container = True
            link = await self._prepare(folders, settings)
        except (AgClusterError, OSError) as error:
            making.over.set()
            self._pause_s = min(max(2 * self._pause_s, FIRST_PAUSE_S), LONGEST_PAUSE_S)
            self._not_before_s = self._clock.monotonic() + self._pause_s
            log.warning("no spare: %s", error, extra=fields(spare=key, pause_s=self._pause_s))
            await self._remove(key, container)
            return
        except BaseException:
            making.over.set()
            await self._remove(key, container)
            raise
        self._pause_s = 0.0
        made_s = self._clock.monotonic()
        self._ready.append(Spare(key, container, settings, link, made_s))
        self._memory.spares = len(self._ready)
        took_ms = int((made_s - began_s) * 1000)
        log.info("spare ready", extra=fields(spare=key, id=container.id, took_ms=took_ms))
        making.over.set()
        self._wake.set()

    def _discard_soon(self, spare: Spare) -> None:
        spare.link.close()
        if self._group is not None:
            removal = self._group.create_task(self._remove(spare.key, spare.container))
            self._removals.add(removal)
            removal.add_done_callback(self._removals.discard)

    async def _remove(self, key: ConversationKey, container: Container | None) -> None:
        """Remove a spare. What resists is found again by `_tidy`."""
        try:
            async with asyncio.timeout(REMOVE_S):
                await self._host.remove(key, container.id if container else None)
        except (ContainerFailed, OSError, TimeoutError) as error:
            log.error("spare not removed: %r", error, extra=fields(spare=key))

    async def _tidy(self) -> None:
        """Remove what this host has of dead workers' spares, and of ours that failed."""
        try:
            await self._host.tidy()
            found = await self._host.spares()
            others = {one.record.worker for one in found} - {self._worker, WorkerId("")}
            living = await self._needs.living(others) if others else frozenset()
        except (AgClusterError, OSError) as error:
            log.warning("spares not looked through: %s", error)
            return
        ours = {spare.key for spare in self._ready}
        if self._making is not None:
            ours.add(self._making.key)
        for one in found:
            key = one.record.spare
            if one.record.worker not in living and key not in ours:
                log.warning("leftover spare removed", extra=fields(spare=key))
                await self._remove(key, one.container)
