"""A worker's life: its loops in one task group, and how it leaves.

Leaving is a sequence: take no more work, say so, then hand everything over (by default, containers
and running turns stay for the next worker of this host) or retire (finish, stop, leave nothing
behind). Each step takes bounded time. `worker.main` creates one from the settings; tests create
several in one process.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Coroutine, Sequence
from contextlib import closing
from typing import Any

from infra.metrics import worker as metrics
from infra.metrics.serve import show_metrics
from infra.runtime.logs import fields
from infra.store.placement.queue import SideClaims
from infra.store.placement.workers import Resubscribed, WorkerRecord
from infra.wire.base import VERSION
from infra.wire.control import CancelTurn, DrainWorker, StopSession, TurnWaits
from infra.wire.errors import AgClusterError, ContainerFailed
from infra.wire.gateway import UpstreamHealth
from infra.wire.ids import ConversationKey, TurnId, WorkerId
from infra.wire.states import WORKER_TRANSITIONS, WorkerState
from worker.assembly import PartWishes, assembled
from worker.assembly import Surroundings as Surroundings
from worker.hosts.blocking import BlockingCalls
from worker.hosts.capacity import (
    HostMemory,
    memory_needed_mb,
    memory_reader,
    slots_for,
    water_marks,
)
from worker.hosts.folders.machine import machine_of, refusal, strangers
from worker.hosts.folders.owner import DataOwner, HeldFolder, hold
from worker.hosts.host import Container
from worker.hosts.pool.host import FoundSpare
from worker.lanes import WorkerLane
from worker.life import Life
from worker.placement.file_sweep import FileSweep
from worker.placement.hibernation import MemoryRelief
from worker.placement.placement import Placement
from worker.placement.reaper import Reaper
from worker.side.lane import SideLane
from worker.waiting import periodically, until_store_answers

log = logging.getLogger(__name__)

REMOVAL_THREADS = 2
"""Removing an agent's files may take minutes; starts do not wait for these threads."""

SIBLING_LOOK_EVERY_S = 1.0
MIB = 1024 * 1024


class WorkerProcess:
    """One worker. `run` is its whole life."""

    def __init__(self, worker: WorkerId, around: Surroundings) -> None:
        self.worker = worker
        self._around = around
        self._machine: str | None = None
        settings, store = around.settings, around.store
        machine_mb, container_mb = machine_memory_mb(), settings.container_memory_mb
        slots = slots_for(
            configured=settings.slots, machine_mb=machine_mb, container_mb=container_mb
        )
        needed_mb = memory_needed_mb(
            container_mb=container_mb,
            reserve_mb=settings.host_memory_reserve_mb,
            machine_mb=machine_mb,
        )
        self._water_marks = water_marks(
            needed_mb=needed_mb,
            low_mb=settings.hibernate_below_mb,
            high_mb=settings.hibernate_until_mb,
        )
        read_mb = around.available_memory_mb or memory_reader(settings.meminfo_file)
        self._memory = HostMemory(read_mb, needed_mb=needed_mb)
        self._removals = BlockingCalls("removals", threads=REMOVAL_THREADS)
        self.parts = assembled(
            worker,
            around,
            memory=self._memory,
            removals=self._removals,
            wishes=PartWishes(
                on_engine=self._on_engine,
                on_room=self._on_room,
                on_cancelled=self._on_cancelled,
                free_slots=lambda: self.placement.slots - self.placement.used,
                running=lambda: self.placement.running,
                spares_above_mb=self._water_marks.low_mb,
            ),
        )
        self.placement = Placement(
            self.parts,
            slots=slots,
            memory=self._memory,
            on_room=self._on_room,
            on_leftover=lambda: self.reaper.reconcile_soon(),
        )
        self.side = SideLane(self.parts, on_room=self._on_side_room)
        self._lanes: Sequence[WorkerLane] = (self.placement, self.side)
        self.reaper = Reaper(self.parts, self.placement, self.side)
        self.relief = MemoryRelief(
            self.parts,
            self.placement.conversations,
            self._memory,
            self._water_marks,
            on_room=self._on_room,
        )
        self._queues = store.placement(
            worker,
            claim=self.placement.claim,
            take=self.placement.take,
            has_room=lambda: self.parts.engine.is_trusted and self.placement.has_room(),
            side=SideClaims(self.side.claim, self.side.has_room),
        )
        self._life = Life(f"worker {worker}", WorkerState.READY, WORKER_TRANSITIONS)
        self._has_changed = asyncio.Event()
        self._started_ms = around.clock.unix_ms()
        self._told_to_drain = asyncio.Event()
        self._has_left = False
        self._is_retiring = settings.retire_on_exit

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, then leave. A loop that dies ends the worker with its error.

        Raises `DataFolderTaken` if another cluster keeps its files in this data folder, and
        `HostNameTaken` if another machine has this host's name.
        """
        with closing(await self._hold_data_folder()), closing(self._removals):
            self._machine = await asyncio.to_thread(machine_of, self._around.settings.data_dir)
            await self._refuse_anothers_name(self._machine)
            await self._run(stop)

    async def _hold_data_folder(self) -> HeldFolder:
        registry, settings = self.parts.registry, self._around.settings
        epoch = await until_store_answers(registry.epoch, self.parts.clock)
        siblings = await self._siblings_to_be()
        owner = DataOwner(settings.cluster, settings.redis_prefix, self.parts.host_id, epoch)
        return await asyncio.to_thread(hold, settings.data_dir, owner, has_siblings=bool(siblings))

    async def _siblings_to_be(self) -> Sequence[WorkerRecord]:
        """The workers of this host, without this one, which has not registered yet."""
        registry, host = self.parts.registry, self.parts.host_id
        return await until_store_answers(lambda: registry.of_host(host), self.parts.clock)

    async def _refuse_anothers_name(self, machine: str) -> None:
        clock = self.parts.clock
        give_up_s = clock.monotonic() + self.parts.timings.name_patience_s
        # Workers of a machine that has lost its data folder stay registered until their last
        # heartbeat expires.
        while others := strangers(machine, await self._siblings_to_be()):
            if clock.monotonic() > give_up_s:
                raise refusal(others[0])
            await clock.sleep(SIBLING_LOOK_EVERY_S)

    async def _run(self, stop: asyncio.Event) -> None:
        log.info(
            "worker starts",
            extra=fields(
                worker=self.worker,
                host=self.parts.host_id,
                isolation=self.parts.host.name,
                slots=self.placement.slots,
            ),
        )
        async with asyncio.TaskGroup() as group:
            loops = [
                group.create_task(_endless(loop, name))
                for name, loop in {
                    **self._file_sweeps(),
                    "conversations": self.placement.run(),
                    "side turns": self.side.run(),
                    "live frames": self.parts.live.run(),
                    "turn logs": self.parts.logs.run(),
                    "leases": self.parts.ownership.run(),
                    "starts": self.parts.starts.run(),
                    "gateway": self.parts.gateway.run(),
                    "meters": self.parts.meters.run(),
                    "heartbeat": self._beat_for_ever(),
                    "changes": self._tell_changes(),
                    "engine": self.parts.engine.run(),
                    "warm pool": self.parts.pool.run(),
                    "control": self._obey(),
                    "exits": self._watch_exits(),
                    "inventory": self._keep_inventory(),
                    "sweeps": self.reaper.run_sweeps(),
                    "memory": self.relief.run(),
                    "reconciler": self.reaper.run_reconciler(),
                    "trash": self.reaper.run_trash(),
                    "metrics": show_metrics(self._around.settings, look=self._show),
                }.items()
            ]
            for lane in self._lanes:
                await lane.wait_running()
            queues = group.create_task(_endless(self._queues.run(), "queues"))
            await self._until_told(stop)
            log.info("worker leaves", extra=fields(worker=self.worker, used=self.placement.used))
            for lane in self._lanes:
                lane.close()
            queues.cancel()
            await self._leave()
            for loop in loops:
                loop.cancel()
        log.info("worker has left", extra=fields(worker=self.worker))

    def _file_sweeps(self) -> dict[str, Coroutine[Any, Any, None]]:
        files, around = self._around.files, self._around
        if files is None:
            return {}
        epoch = self.parts.registry.epoch
        sweep = FileSweep(around.store.files, files, around.clock, epoch=epoch)
        return {"files": sweep.run()}

    async def _until_told(self, stop: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            told = [
                group.create_task(stop.wait()),
                group.create_task(self._told_to_drain.wait()),
            ]
            await asyncio.wait(told, return_when=asyncio.FIRST_COMPLETED)
            for waiting in told:
                waiting.cancel()

    # Loops

    async def _beat_for_ever(self) -> None:
        every_s = self._around.beat_every_s
        await periodically(
            self._beat, self.parts.clock, name="heartbeat", at_least_s=every_s, at_most_s=every_s
        )

    async def _beat(self) -> None:
        if self._has_left:
            return
        if self._memory.look():
            self._on_room()
        self.reaper.workers = await self.parts.registry.beat(
            WorkerRecord(
                worker=self.worker,
                host=self.parts.host_id,
                pid=os.getpid(),
                version=VERSION,
                slots=self.placement.slots,
                used=self.placement.used + self.placement.coming,
                state=self._life.state,
                started_ms=self._started_ms,
                memory_mb=self._memory.left_mb,
                memory_needed_mb=self._memory.needed_mb,
                starts_max=self.parts.starts.most,
                machine=self._machine,
                idle_since_ms=self.relief.idle_since_ms(),
                hibernated=self.placement.hibernated,
                spares=self.parts.pool.spares,
                spare_hits=self.parts.pool.hits,
                spare_misses=self.parts.pool.misses,
                upstream=_upstream_of(self.parts.gateway.upstream),
            )
        )
        self.placement.look_if_left()

    def _on_engine(self) -> None:
        """The engine is trusted now, or no longer. A worker that leaves takes no work in either
        case."""
        if self._life.state is not WorkerState.DRAINING:
            is_trusted = self.parts.engine.is_trusted
            self._life.to(WorkerState.READY if is_trusted else WorkerState.FAILING)
            self._has_changed.set()
        self._on_room()

    def _show(self) -> None:
        """Set the gauges to what is now."""
        placement, memory = self.placement, self._memory
        running = placement.running
        metrics.SLOTS.set(placement.slots)
        metrics.SLOTS_USED.set(placement.used + placement.coming)
        metrics.CONVERSATIONS.labels("running").set(running)
        metrics.CONVERSATIONS.labels("idle").set(placement.used - running)
        metrics.SPARES.set(self.parts.pool.spares)
        metrics.ENGINE_TRUSTED.set(self.parts.engine.is_trusted)
        metrics.MEMORY_NEEDED.set(memory.needed_mb * MIB)
        if (left_mb := memory.left_mb) is not None:
            metrics.MEMORY_LEFT.set(left_mb * MIB)

    async def _tell_changes(self) -> None:
        """Report changes at once, not only with the next heartbeat."""
        while True:
            await self._has_changed.wait()
            self._has_changed.clear()
            await self._tell("say how we are", self._beat())

    async def _obey(self) -> None:
        async for message in self.parts.registry.control(self.worker):
            match message:
                case CancelTurn():
                    self._cancel(message.conversation, message.turn)
                case TurnWaits():
                    self.placement.turn_waits(message)
                case StopSession():
                    self.placement.stop(message.conversation, is_deleted=message.is_deleted)
                case DrainWorker():
                    log.info("told to drain", extra=fields(retire=message.retire))
                    self._is_retiring |= message.retire
                    self._told_to_drain.set()
                case Resubscribed():
                    self.placement.poke_all()

    async def _watch_exits(self) -> None:
        async for exit in self.parts.host.exits():
            self.placement.container_exited(exit)

    async def _keep_inventory(self) -> None:
        """Keep the list of what runs here up to date, for people to read."""
        every_s = self.parts.timings.inventory_every_s
        await periodically(
            self._take_inventory,
            self.parts.clock,
            name="inventory",
            at_least_s=every_s,
            at_most_s=every_s,
        )

    async def _take_inventory(self) -> None:
        running = [c for c in await self.parts.host.list() if c.is_running]
        await self.parts.registry.take_inventory(
            self.parts.host_id, {container.id: container.conversation for container in running}
        )

    def _on_cancelled(self, c: ConversationKey, turn: TurnId, reason: str) -> None:
        self._cancel(c, turn)

    def _cancel(self, c: ConversationKey, turn: TurnId) -> None:
        for lane in self._lanes:
            lane.cancel(c, turn)

    def _on_room(self) -> None:
        self._queues.wake()
        self.placement.look()

    def _on_side_room(self) -> None:
        self._queues.wake()

    # Leaving

    async def _leave(self) -> None:
        self._life.to(WorkerState.DRAINING)
        await self._tell("say that we drain", self._beat())
        async with asyncio.TaskGroup() as group:
            for lane in self._lanes:
                group.create_task(lane.drain(is_retiring=self._is_retiring))
            group.create_task(self.parts.pool.close())
        await self._tell("say goodbye", self._say_goodbye())

    async def _say_goodbye(self) -> None:
        """Deregister. The last worker of a host that retires leaves nothing there.

        Containers that a new worker starts meanwhile are not included. Raises `StoreUnavailable`
        and `ContainerFailed`.
        """
        found: Sequence[Container] = ()
        spares: Sequence[FoundSpare] = ()
        if self._is_retiring:
            try:
                found = await self.parts.host.list()
                # Ours are gone. A worker that was killed just now has left its own.
                spares = await self.parts.pool.found()
            except (ContainerFailed, OSError) as error:
                log.error("containers not listed: %s", error)
        self._has_left = True
        if not await self.parts.registry.leave(self.worker) and self._is_retiring:
            await self.parts.pool.remove_all(spares)
            await self.reaper.stop_all(found)

    async def _tell(self, what: str, call: Coroutine[Any, Any, None]) -> None:
        """A courtesy on the way out; nothing depends on it."""
        try:
            await call
        except AgClusterError as error:
            log.warning("could not %s: %s", what, error)


def _upstream_of(known: UpstreamHealth | None) -> str:
    if known is None or not known.is_known:
        return ""
    return f"{known.host} {known.cause}" if known.cause else "ok"


async def _endless(loop: Coroutine[Any, Any, None], name: str) -> None:
    """A loop that returns is as dead as one that raises."""
    await loop
    raise RuntimeError(f"the loop of {name} ended")


def machine_memory_mb() -> int:
    """Memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // (1024 * 1024)
